"""What an engine process does with what its engine tells of its device; without a process around it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rerankq_worker.doubles import Behaviour, DoubleEngine
from rerankq_worker.engine_process import process as engine_process
from rerankq_worker.engine_process.process import EngineProcess
from rerankq_worker.engine_process.watchdog import BROKEN, Watchdog
from rerankq_worker.link.health import EngineStatus
from rerankq_worker.scoring import EngineBroken, Logits, TokenIds
from rerankq_worker.settings import WorkerSettings


@pytest.fixture
def watchdog(tmp_path: Path) -> Watchdog:
    status = EngineStatus(state="loading", pid=1, device="gpu0", boot="b", starts=1, started_monotonic=0.0)
    return Watchdog(tmp_path / "gpu0.json", status, stuck_after_seconds=60, parent_pid=None)


class Breathing(DoubleEngine):
    """Its budget is another one after each batch."""

    budgets = (256, 512)

    def score(self, rows: Sequence[TokenIds]) -> Logits:
        tokens, *later = self.budgets
        self.budgets = tuple(later)
        self.info = replace(self.info, max_batch_tokens=tokens)
        return super().score(rows)


def test_batches_follow_the_budget_down_and_up_again(watchdog: Watchdog) -> None:
    process = EngineProcess(Breathing(WorkerSettings(), "gpu0", Behaviour()), watchdog, drain_seconds=0)
    process._report_ready()
    seen: list[tuple[int, int]] = []
    part: Any = type("Part", (), {"rows": [np.zeros(3, dtype=np.int32)], "tokens": 3})

    for _ in range(2):
        process._one_pass([part])
        seen.append((watchdog.status.max_batch_tokens, process._desk._scheduler.max_tokens))

    assert seen == [(256, 256), (512, 512)]
    assert watchdog.tally.counts["out_of_memory"] == 1


def test_a_device_lost_while_warming_up_ends_the_process_as_broken(
    watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(DoubleEngine):
        def warm_up(self) -> None:
            raise EngineBroken("fell off the bus")

    ended: list[object] = []
    monkeypatch.setattr(watchdog, "end", lambda *how: ended.append(how))
    monkeypatch.setattr(
        engine_process, "make_engine", lambda settings, device: Lost(settings, device, Behaviour())
    )

    with pytest.raises(EngineBroken):
        engine_process._load(WorkerSettings(), "gpu0", watchdog)

    assert ended == [("broken", BROKEN, "EngineBroken: fell off the bus")]
