"""Counts of jobs that outlive every process: a field of `keys.TOTALS` for each, raised in the step that makes it true.

Which fields there are is bounded by what is named here: a caller's words are in none. Reading knows no Redis, and a
Redis that was wiped begins at 0 again, as counters of Prometheus may. Workers and clients of a release before count
nothing.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from rerankq.contract.errors import Cancelled, DeadlineExceeded, JobFailed, RerankError, from_wire
from rerankq.contract.keys import JOB_TTL_SECONDS
from rerankq.contract.messages import LANES, Lane

Outcome = Literal["done", "failed", "dead", "expired", "cancelled"]
"""How a job ended, in the words of `rerankq status`."""
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

Cause = Literal["first", "lease_lost", "attempt_lost", "handed_back", "handed_on", "retried", "vanished"]
"""Why a message was handed to a worker: for the first time, or again because the worker before fell silent, or lost its
child, its engine or the answer; because that one stopped, or had Redis away, or was not to run it yet; because it was
for workers of another model; because an operator wanted it tried again. `vanished`: it was found missing, and is not
handed to anybody."""
CAUSES: tuple[Cause, ...] = get_args(Cause)

Refusal = Literal["lane_full", "too_much_ahead", "too_late", "paused", "memory", "no_workers"]
"""Why a client sent no job at all: as many wait as may, or more work than anybody should wait for; it could not be done
in its own time; its lane is paused; Redis is too full; nobody is there to answer."""
REFUSALS: tuple[Refusal, ...] = get_args(Refusal)

BOUNDS_SECONDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
    *(60.0, 120.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0),
)
"""The upper bounds of the buckets of time, each included; beyond the last there is one more bucket."""
_MICROSECONDS = 1_000_000  # a sum of integers neither drifts nor, in 300,000 years of waiting, overflows
# A field with a value above 64 bytes makes Redis keep the hash as a table, in which a count costs it half.
ABOUT = (
    "about",
    "what was counted of rerankq's jobs since this Redis began; its fields: rerankq/contract/totals.py",
)
DELIVERED = "delivered:"
_BEYOND = "inf"
_SUM = "us"
_MOST_DIGITS = 19


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many jobs took how long."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS_SECONDS) + 1)
    """By bucket, those of no bucket before; the last is of those beyond all bounds."""
    sum_seconds: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, fraction: float) -> float | None:
        """Seconds that this fraction of the jobs took at most, as exactly as the buckets tell; None of no job.

        Within a bucket it is taken to rise evenly, as Prometheus does; beyond the last bound it is that bound.
        """
        rank, before = fraction * self.count, 0
        for (low, high), count in zip(pairwise((0.0, *BOUNDS_SECONDS)), self.counts, strict=False):
            if count and before + count >= rank:
                return low + (high - low) * max(rank - before, 0.0) / count
            before += count
        return BOUNDS_SECONDS[-1] if self.count else None

    def since(self, earlier: "Histogram") -> "Histogram":
        """What has come since an earlier reading; all of it where counting began anew in between."""
        counts = tuple(now - then for now, then in zip(self.counts, earlier.counts, strict=True))
        return (
            self if min(counts) < 0 else Histogram(counts, max(self.sum_seconds - earlier.sum_seconds, 0.0))
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything counted so far."""

    jobs: Mapping[tuple[Lane, Outcome], int]
    """Jobs that ended."""
    waits: Mapping[Lane, Histogram]
    """From being submitted until the attempt began that answered, of jobs that are done."""
    times: Mapping[Lane, Histogram]
    """From being submitted until their ranking was stored, of the same."""
    pairs: Mapping[Lane, int]
    """Query-document pairs in their rankings."""
    deliveries: Mapping[Cause, int]
    """Messages handed to workers."""
    refusals: Mapping[Refusal, int]
    """Jobs that clients did not send; those of the last second before a client's end are not counted."""


def outcome_of(error: BaseException | None) -> Outcome:
    """How a job ended whose answer is this error; None: a ranking."""
    match error:
        case None:
            return "done"
        case Cancelled():
            return "cancelled"
        case DeadlineExceeded():
            return "expired"
        case JobFailed() if error.details.get("dead"):
            return "dead"
        case RerankError():
            return "failed"
        case _:  # Celery's own, say at a time limit
            return outcome_of(from_wire(type(error).__name__, error.args))


def of_end(lane: Lane, outcome: Outcome) -> dict[str, int]:
    """What to add, field by field, for a job that ended."""
    return {f"jobs:{lane}:{outcome}": 1}


def of_ranking(
    lane: Lane, pairs: int, wait_seconds: float | None, total_seconds: float | None
) -> dict[str, int]:
    """What to add for a job that is done; of one whose sender recorded no time of submission, none is known."""
    return {
        **of_end(lane, "done"),
        **_of_time("wait", lane, wait_seconds),
        **_of_time("time", lane, total_seconds),
        f"pairs:{lane}": pairs,
    }


def of_delivery(cause: Cause) -> str:
    """The field that counts the messages handed to a worker for this cause."""
    return DELIVERED + cause


def of_refusal(reason: Refusal) -> str:
    """The field that counts the jobs that clients refused for this reason."""
    return f"refused:{reason}"


def totals_in(told: Mapping[bytes, bytes]) -> Totals:
    """What lies under `keys.TOTALS`; what is no count of ours is left out."""
    counts = {name: value for name, value in told.items() if value.isdigit() and len(value) <= _MOST_DIGITS}
    fields = {name.decode(errors="replace"): int(value) for name, value in counts.items()}
    return Totals(
        jobs={(lane, end): fields.get(f"jobs:{lane}:{end}", 0) for lane in LANES for end in OUTCOMES},
        waits={lane: _histogram("wait", lane, fields) for lane in LANES},
        times={lane: _histogram("time", lane, fields) for lane in LANES},
        pairs={lane: fields.get(f"pairs:{lane}", 0) for lane in LANES},
        deliveries={cause: fields.get(of_delivery(cause), 0) for cause in CAUSES},
        refusals={reason: fields.get(of_refusal(reason), 0) for reason in REFUSALS},
    )


def _of_time(of: str, lane: Lane, seconds: float | None) -> dict[str, int]:
    if seconds is None:
        return {}
    at = bisect_left(BOUNDS_SECONDS, seconds)
    bound = f"{BOUNDS_SECONDS[at]:g}" if at < len(BOUNDS_SECONDS) else _BEYOND
    # A record lives no longer: one that says more is wrong, and would use up the sum for all others.
    added = round(min(max(seconds, 0.0), JOB_TTL_SECONDS) * _MICROSECONDS)
    return {f"{of}:{lane}:{bound}": 1, f"{of}:{lane}:{_SUM}": added}


def _histogram(of: str, lane: Lane, fields: Mapping[str, int]) -> Histogram:
    counts = [0] * (len(BOUNDS_SECONDS) + 1)
    for bound, count in _buckets(f"{of}:{lane}:", fields):
        counts[bisect_left(BOUNDS_SECONDS, bound)] += count
    return Histogram(tuple(counts), fields.get(f"{of}:{lane}:{_SUM}", 0) / _MICROSECONDS)


def _buckets(prefix: str, fields: Mapping[str, int]) -> Iterator[tuple[float, int]]:
    """Those of another release too, with bounds of its own."""
    for name, count in fields.items():
        if name.startswith(prefix) and name != prefix + _SUM:
            try:
                yield float(name.removeprefix(prefix)), count
            except ValueError:
                continue
