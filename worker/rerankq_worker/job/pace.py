"""Of time while jobs run: how fast they go here, and when to look at something again."""

import time

from rerankq.contract.heartbeats import faded
from rerankq.contract.messages import Lane

PACE_WEIGHT = 0.1  # of the newest job in the moving average


class Every:
    """True once in each period, the first time when one has passed, or so many seconds."""

    def __init__(self, seconds: float, first_seconds: float | None = None) -> None:
        self._seconds = seconds
        self._last = time.monotonic() - (0.0 if first_seconds is None else seconds - first_seconds)

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


class Pace:
    """How long a job of each lane takes here, lately, and how many pairs it has: what admission and estimates go by.

    And how many pairs were scored of late, the older the less.
    """

    def __init__(self) -> None:
        self.seconds_per_job: dict[Lane, float] = {}
        self._pairs_per_job: dict[Lane, float] = {}
        self.recent_pairs = 0.0
        self._noted_at = time.monotonic()

    def note(self, lane: Lane, seconds: float, pairs: int) -> None:
        """Count one more job."""
        for averages, value in ((self.seconds_per_job, seconds), (self._pairs_per_job, pairs)):
            before = averages.get(lane, value)
            averages[lane] = before + PACE_WEIGHT * (value - before)
        now = time.monotonic()
        self.recent_pairs = faded(self.recent_pairs, now - self._noted_at) + pairs
        self._noted_at = now

    def pairs_per_second(self, lane: Lane) -> float | None:
        """Scored here; None when none were."""
        seconds = self.seconds_per_job.get(lane)
        return self._pairs_per_job[lane] / seconds if seconds else None
