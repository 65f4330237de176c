"""How long bulk work rides out a service that is away. Pure but for the clock."""

import time

from rerankq.contract.errors import RerankError

LONGEST_PAUSE_SECONDS = 2.0
_FIRST_PAUSE_SECONDS = 0.1


class RetryBudget:
    """Counts from the first failure; a success starts it anew."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._failing_since: float | None = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    def succeeded(self) -> None:
        """All is well again."""
        self._failing_since = None
        self._pause_seconds = _FIRST_PAUSE_SECONDS

    def failed(self, error: RerankError) -> float:
        """How long to pause before the next attempt, in seconds.

        Raises:
            RerankError: `error` itself, when it has gone on for too long.
        """
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since >= self._seconds:
            raise error
        pause, self._pause_seconds = self._pause_seconds, min(2 * self._pause_seconds, LONGEST_PAUSE_SECONDS)
        return pause
