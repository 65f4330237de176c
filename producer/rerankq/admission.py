"""Admission: refuse early, with a time to come back, rather than accept what cannot be answered.

The judgement is pure; one class reads what it judges by.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rerankq.contract import keys
from rerankq.contract.clock import RedisClock
from rerankq.contract.errors import NoWorkers, QueueFull
from rerankq.contract.heartbeats import WorkerStatus, alive_in
from rerankq.contract.messages import LANES, Lane
from rerankq.contract.stores import reply_or
from rerankq.settings import ClientSettings
from rerankq.talk import Talk, accepted, ask, ask_one

SURROUNDINGS_AGE_SECONDS = (
    1.0  # workers, pace and memory change slowly; the lane's length is asked for every time
)
_UNKNOWN_MEMORY_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a new job would meet, its own lane's length aside."""

    workers: tuple[WorkerStatus, ...] = ()
    seconds_per_job: Mapping[str, float] = field(default_factory=dict[str, float])
    memory_fraction: float = 0.0
    """Of the broker's limit; 0 when nothing is known."""


def judge(lane: Lane, waiting_jobs: int, around: Surroundings, settings: ClientSettings) -> None:
    """Let a job in or refuse it.

    Raises:
        QueueFull: the lane is too long, too slow, or the broker's memory too full.
    """
    seconds_ahead = waiting_jobs * around.seconds_per_job.get(lane, 0.0)
    if waiting_jobs >= settings.max_jobs(lane):
        raise _full(
            f"{waiting_jobs:,} jobs wait in the {lane} lane, as many as may", max(seconds_ahead / 10, 1.0)
        )
    if seconds_ahead > settings.max_wait_seconds(lane):
        raise _full(f"about {seconds_ahead:.0f} s of work wait in the {lane} lane", seconds_ahead / 2)
    if around.memory_fraction > settings.max_memory_fraction(lane):
        raise _full(
            f"the broker's memory is {around.memory_fraction:.0%} full", _UNKNOWN_MEMORY_RETRY_SECONDS
        )


class Admission:
    """Reads the broker's state, at most once a second but for the lane's length."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self.clock = RedisClock()
        self._around = Surroundings()
        self._read_at = float("-inf")

    def admit(self, lane: Lane) -> Talk[None]:
        """Let a job in or refuse it.

        Raises:
            QueueFull: come back later.
        """
        around = yield from self.surroundings()
        judge(lane, (yield from ask_one("LLEN", keys.queue_of(lane))), around, self._settings)

    def waiting(self, lane: Lane) -> Talk[int]:
        """Jobs in a lane that no worker has taken, those included that somebody sent with a priority."""
        list_key = keys.queue_of(lane)
        counts = yield from ask(*(("LLEN", key) for key in (list_key, *keys.priority_lists(list_key))))
        return sum(map(accepted, counts))

    def require_workers(self) -> Talk[None]:
        """Refuse to ask where nobody is there to answer.

        Raises:
            NoWorkers: nothing was accepted.
        """
        for max_age_seconds in (SURROUNDINGS_AGE_SECONDS, 0):
            if (yield from self.surroundings(max_age_seconds)).workers:
                return
        raise NoWorkers(
            "no worker has been heard of in the last "
            f"{keys.HEARTBEAT_TTL_SECONDS} s; start one with `rerankq-worker`, or `submit` the job and let it wait"
        )

    def surroundings(self, max_age_seconds: float = SURROUNDINGS_AGE_SECONDS) -> Talk[Surroundings]:
        """Workers, pace and memory, as of at most `max_age_seconds` ago; with them Redis's clock."""
        if time.monotonic() - self._read_at > max_age_seconds:
            self._around = yield from self._read()
            self._read_at = time.monotonic()
        return self._around

    def _read(self) -> Talk[Surroundings]:
        asked_at = time.monotonic()
        now, beats, paces, memory = yield from ask(
            ("TIME",), ("HGETALL", keys.WORKERS), ("HGETALL", keys.PACE), ("INFO", "memory")
        )
        self.clock.learn(accepted(now), asked_at)
        workers = alive_in(reply_or(beats, {}), reply_or(paces, {}), self.clock.now())
        limit_bytes = accepted(memory).get("maxmemory") or self._settings.max_broker_bytes
        return Surroundings(
            workers=workers,
            seconds_per_job=_lane_paces(workers),
            memory_fraction=memory["used_memory"] / limit_bytes,
        )


def _lane_paces(workers: Sequence[WorkerStatus]) -> dict[str, float]:
    """Seconds until one more job of a lane is done, all its workers together."""
    paces = [worker.seconds_per_job for worker in workers]
    return {
        lane: seconds for lane in LANES if (seconds := _together([p[lane] for p in paces if lane in p])) > 0
    }


def _together(seconds_per_job: list[float]) -> float:
    rate = sum(1 / seconds for seconds in seconds_per_job)
    return 1 / rate if rate else 0.0


def _full(situation: str, retry_after_seconds: float) -> QueueFull:
    return QueueFull(
        f"{situation}; try again in {retry_after_seconds:.0f} s",
        {"retry_after_seconds": round(retry_after_seconds, 1)},
    )
