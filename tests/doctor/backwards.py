"""An engine that holds the longest document for the best: a model that was exchanged, or whose weights were."""

from typing import Any

from rerankq_worker.doubles import Behaviour, DoubleEngine
from rerankq_worker.scoring import Logits
from rerankq_worker.settings import WorkerSettings


class Backwards(DoubleEngine):
    def _logits(self, rows: object) -> Logits:
        return -super()._logits(rows)  # pyright: ignore[reportArgumentType]


def engine(settings: WorkerSettings, device: str, **called: Any) -> Backwards:
    return Backwards(settings, device, Behaviour(**called))
