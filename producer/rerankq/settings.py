"""Every setting of the asking side: its default, unit and bound."""

from typing import Any, Self

from pydantic import Field

from rerankq.contract.messages import Lane
from rerankq.contract.settings import SharedSettings
from rerankq.running import running_broker

MAX_BULK_WAIT_SECONDS = 24 * 3600.0


class ClientSettings(SharedSettings):
    """What a producer can turn."""

    redis_timeout_seconds: float = Field(default=0.5, gt=0)
    """How long one call to Redis may take before it counts as down. A web request never hangs longer than this."""
    interactive_timeout_seconds: float = Field(default=30.0, gt=0)
    """How long `rerank` waits when not told; also the job's deadline."""
    bulk_patience_seconds: float = Field(default=60.0, ge=0)
    """How long bulk work rides out a Redis that is away before it gives up."""
    max_interactive_jobs: int = Field(default=1_000, ge=1)
    """Interactive jobs that may wait in the lane; one more is refused with `QueueFull`."""
    max_bulk_jobs: int = Field(default=100_000, ge=1)
    """Bulk jobs (or packs) that may wait in the lane."""
    max_interactive_wait_seconds: float = Field(default=30.0, gt=0)
    """Refuse an interactive job when the work ahead of it is estimated to take longer than this."""
    max_broker_bytes: int = Field(default=2_000_000_000, ge=1_000_000)
    """Memory the broker may use, where Redis itself has no `maxmemory`."""

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """As both sides read them; where nothing names a Redis, that of a `rerankq up` that runs here.

        Raises:
            InvalidSettings: a variable is misspelt or its value out of bounds.
        """
        settings = super().load(**overrides)
        url = None if settings.model_fields_set & {"broker_url", "result_url"} else running_broker()
        return settings if url is None else super().load(broker_url=url, **overrides)

    @classmethod
    def of(cls, broker_url: str | None, result_url: str | None) -> Self:
        """The settings in force, these addresses in place of theirs."""
        given = {"broker_url": broker_url, "result_url": result_url}
        return cls.load(**{name: value for name, value in given.items() if value is not None})

    def max_jobs(self, lane: Lane) -> int:
        """Jobs that may wait in a lane."""
        return self.max_interactive_jobs if lane == "interactive" else self.max_bulk_jobs

    def max_wait_seconds(self, lane: Lane) -> float:
        """Estimated work that may be ahead of a new job in a lane."""
        return self.max_interactive_wait_seconds if lane == "interactive" else MAX_BULK_WAIT_SECONDS
