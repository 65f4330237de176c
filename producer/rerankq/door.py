"""Admission: refuse early, with a time to come back, rather than accept what cannot be answered.

The judgement is pure; one class reads what it judges by.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from rerankq.contract import keys, wire
from rerankq.contract.broker import queue_of
from rerankq.contract.clock import RedisClock
from rerankq.contract.errors import QueueFull
from rerankq.contract.messages import LANES, Lane
from rerankq.settings import ClientSettings

SURROUNDINGS_AGE_SECONDS = (
    1.0  # workers, pace and memory change slowly; the lane's length is asked for every time
)
_UNKNOWN_MEMORY_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """What one Celery worker last said of itself."""

    name: str
    state: str
    """`loading`, `ready`, `busy`, `stuck` or `broken`: its engine's own word."""
    lanes: tuple[Lane, ...]
    device: str
    dtype: str
    model: str
    revision: str
    seen_seconds_ago: float


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


class Door:
    """Reads the broker's state, at most once a second but for the lane's length."""

    def __init__(self, broker: "Redis", settings: ClientSettings) -> None:
        self._broker = broker
        self._settings = settings
        self.clock = RedisClock()
        self._around = Surroundings()
        self._read_at = float("-inf")

    def admit(self, lane: Lane) -> None:
        """Let a job in or refuse it.

        Raises:
            QueueFull: come back later.
        """
        judge(lane, self.waiting(lane), self.surroundings(), self._settings)

    def waiting(self, lane: Lane) -> int:
        """Jobs in a lane that no worker has taken."""
        waiting: Any = self._broker.llen(queue_of(lane))
        return waiting

    def surroundings(self, max_age_seconds: float = SURROUNDINGS_AGE_SECONDS) -> Surroundings:
        """Workers, pace and memory, as of at most `max_age_seconds` ago."""
        if time.monotonic() - self._read_at > max_age_seconds:
            self._around = self._read()
            self._read_at = time.monotonic()
        return self._around

    def _read(self) -> Surroundings:
        pipeline = self._broker.pipeline(transaction=False)
        pipeline.time()
        pipeline.hgetall(keys.WORKERS)
        pipeline.hgetall(keys.PACE)
        pipeline.info("memory")
        asked_at = time.monotonic()
        now, workers, paces, memory = pipeline.execute()
        self.clock.learn(now, asked_at)
        alive = read_workers(workers, now[0])
        return Surroundings(
            workers=alive,
            seconds_per_job=_lane_paces(paces, alive),
            memory_fraction=memory["used_memory"]
            / (memory.get("maxmemory") or self._settings.max_broker_bytes),
        )


def read_workers(heartbeats: Mapping[bytes, bytes], now: float) -> tuple[WorkerStatus, ...]:
    """The workers heard of lately, by name; one whose words nobody here understands is left out.

    Args:
        heartbeats: the hash at `keys.WORKERS`.
        now: Redis's own clock, Unix seconds.
    """
    alive: list[WorkerStatus] = []
    for name, beat in heartbeats.items():
        with suppress(ValueError, KeyError, TypeError):  # a worker of another release
            alive.append(_worker_status(name.decode(), wire.decode(beat), now))
    alive = [status for status in alive if status.seen_seconds_ago <= keys.HEARTBEAT_TTL_SECONDS]
    return tuple(sorted(alive, key=lambda status: status.name))


def _worker_status(name: str, beat: Mapping[str, Any], now: float) -> WorkerStatus:
    return WorkerStatus(
        name=name,
        state=beat["state"],
        lanes=tuple(beat["lanes"]),
        device=beat["device"],
        dtype=beat["dtype"],
        model=beat["model"],
        revision=beat["revision"],
        seen_seconds_ago=max(now - beat["seen"], 0.0),
    )


def _lane_paces(paces: Mapping[bytes, bytes], alive: tuple[WorkerStatus, ...]) -> dict[str, float]:
    """Seconds until one more job of a lane is done, all its workers together."""
    names = {status.name for status in alive}
    own = [wire.decode(pace) for name, pace in paces.items() if name.decode() in names]
    return {
        lane: seconds for lane in LANES if (seconds := _together([p[lane] for p in own if lane in p])) > 0
    }


def _together(seconds_per_job: list[float]) -> float:
    rate = sum(1 / seconds for seconds in seconds_per_job if seconds > 0)
    return 1 / rate if rate else 0.0


def _full(situation: str, retry_after_seconds: float) -> QueueFull:
    return QueueFull(
        f"{situation}; try again in {retry_after_seconds:.0f} s",
        {"retry_after_seconds": round(retry_after_seconds, 1)},
    )
