"""What one device does, in the figures that are simulated: as told, or as `rerankq bench --json` measured them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH_PAIRS = 32
_SMALL_JOB = 10  # documents: of less than a batch, so that what a pass costs whatever is in it can be told


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one device and the Celery workers beside it."""

    pair_seconds: float
    """Of a forward pass, for each pair in it."""
    batch_seconds: float = 0.0
    """Of a forward pass, whatever is in it."""
    job_seconds: float = 0.0
    """A worker's time for a job beside the engine's: queue, tokenizing, answering."""
    document_seconds: float = 0.0
    """The same, for each document."""
    batch_pairs: int = BATCH_PAIRS
    interactive_workers: int = 1
    bulk_workers: int = 2
    """Which take interactive jobs first."""

    @property
    def pairs_per_second(self) -> float:
        """In full batches."""
        return self.batch_pairs / self.pass_seconds(self.batch_pairs)

    def pass_seconds(self, pairs: int) -> float:
        """Of so many pairs at once."""
        return self.batch_seconds + self.pair_seconds * pairs

    def overhead_seconds(self, documents: int) -> float:
        """A worker's, of a job."""
        return self.job_seconds + self.document_seconds * documents


def from_bench(file: Path) -> Figures:
    """What `rerankq bench --json` wrote.

    Raises:
        ValueError: it was stopped before the figures were known, or the file is something else.
    """
    try:
        return _read(json.loads(file.read_text(encoding="utf-8")))
    except (LookupError, TypeError, StopIteration, ValueError) as error:
        raise ValueError(f"{file} is no whole answer of `rerankq bench --json`") from error


def _read(told: dict[str, Any]) -> Figures:
    asked = [row for row in told["latency"] if row["asked"]]
    length = asked[0]["length"]
    pairs_per_second = next(row["pairs_per_second"] for row in told["lengths"] if row["length"] == length)
    batch_pairs = told["engine"]["max_batch_pairs"]
    small = next(row for row in asked if row["documents"] == _SMALL_JOB)
    large = asked[-1]
    # a + 10 b is a small job's time in the engine, and a + 32 b that of a full batch
    full_seconds = batch_pairs / pairs_per_second
    most = min(full_seconds / batch_pairs, small["score_seconds"] / _SMALL_JOB)
    pair_seconds = (full_seconds - small["score_seconds"]) / (batch_pairs - _SMALL_JOB)
    pair_seconds = min(max(pair_seconds, 0.0), most)
    beside = [row["queue_seconds"] + row["tokenize_seconds"] for row in (small, large)]
    document_seconds = max(0.0, (beside[1] - beside[0]) / max(large["documents"] - _SMALL_JOB, 1))
    return Figures(
        pair_seconds=pair_seconds,
        batch_seconds=full_seconds - batch_pairs * pair_seconds,
        job_seconds=max(0.0, beside[0] - _SMALL_JOB * document_seconds),
        document_seconds=document_seconds,
        batch_pairs=batch_pairs,
        bulk_workers=1 if told["engine"]["device"] == "cpu" else 2,
    )
