"""What time Redis has: the one clock by which times in Redis are written and judged.

Producers and workers stand on machines whose clocks disagree or are set while they run. A deadline, the moment a job
was submitted or answered: in Redis each is in Redis's time. What a caller gives or gets is in the caller's own.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

STALE_AFTER_SECONDS = 60.0  # crystals drift by some ten microseconds a second


class RedisClock:
    """Redis's time without asking for it each time; asks nobody, learns from whoever asks."""

    def __init__(self) -> None:
        self._known: _Known | None = None

    def learn(self, told: Sequence[int], asked_at: float) -> None:
        """Take the reply to a `TIME` that was sent at `asked_at` by `time.monotonic()`.

        What was learned from a quicker reply is kept as long as a slower one does not contradict it.
        """
        answered_at = time.monotonic()
        seconds = told[0] + told[1] / 1e6
        new = _Known(seconds - answered_at, seconds - asked_at, answered_at)
        known = self._known
        if known is not None and new.earliest <= known.middle <= new.latest and known.width <= new.width:
            new = _Known(known.earliest, known.latest, answered_at)
        self._known = new

    @property
    def is_stale(self) -> bool:
        """Whether nothing has been learned, or not for long."""
        return self._known is None or time.monotonic() - self._known.learned_at > STALE_AFTER_SECONDS

    def now(self) -> float:
        """Unix seconds by Redis's clock; by our own until anything was learned."""
        return time.time() if self._known is None else time.monotonic() + self._known.middle

    def surely_before(self, seconds_from_now: float) -> float:
        """A moment that will have come in so many seconds, whatever is not known of Redis's clock.

        At least half of them are left until then.
        """
        unsure_seconds = 0.0 if self._known is None else self._known.width / 2
        return self.now() + seconds_from_now - min(unsure_seconds, seconds_from_now / 2)

    def from_ours(self, unix_seconds: float) -> float:
        """A moment of our own wall clock, as Redis has it."""
        return self.now() + (unix_seconds - time.time())

    def to_ours(self, unix_seconds: float) -> float:
        """A moment that Redis told, as our own wall clock has it."""
        return time.time() + (unix_seconds - self.now())


@dataclass(frozen=True, slots=True)
class _Known:
    """Redis's time less our monotonic one, which no setting of a clock moves: between these two."""

    earliest: float
    latest: float
    learned_at: float

    @property
    def middle(self) -> float:
        return (self.earliest + self.latest) / 2

    @property
    def width(self) -> float:
        return self.latest - self.earliest
