"""What every route needs: the client that asks, the settings, the keys, who is waiting, and who looks on."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from starlette.requests import Request

from rerankq.aio import AsyncRerankClient
from rerankq.contract.errors import QueueFull
from rerankq.http.keys import Keys
from rerankq.http.settings import HttpSettings

BODIES_HELD = 8  # of the largest size, in a process's memory at a time; of a usual one as many as may wait


@dataclass(frozen=True, slots=True)
class Visit:
    """One request and what became of it; nothing of what it said."""

    method: str
    route: str
    """As the application has it, `/v1/jobs/{id}`; `-` where it has none."""
    status: int
    seconds: float
    request_id: str
    documents: int | None = None
    refused: str | None = None
    """Why, in the word for it that its caller is told."""


@dataclass
class Service:
    """One process's HTTP face."""

    client: AsyncRerankClient
    settings: HttpSettings
    keys: Keys
    waiting: int = field(default=0, init=False)
    held_bytes: int = field(default=0, init=False)
    """Of the bodies of all requests that are not over."""
    onlookers: list[Callable[[Visit], None]] = field(
        default_factory=list[Callable[[Visit], None]], init=False
    )
    """Each is told of every request that is over."""

    @contextmanager
    def place(self) -> Generator[None]:
        """A place among those that wait.

        Raises:
            QueueFull: there is none.
        """
        if self.waiting >= self.settings.http_max_waiting:
            raise QueueFull(
                f"expected at most {self.settings.http_max_waiting:,} requests at a time",
                {"retry_after_seconds": 1.0},
            )
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def hold(self, count: int) -> None:
        """Hold so many more bytes of a body.

        Raises:
            QueueFull: all of them together are more than this process should hold.
        """
        if self.held_bytes + count > BODIES_HELD * self.settings.http_max_body_bytes:
            raise QueueFull("too much is being sent at a time", {"retry_after_seconds": 1.0})
        self.held_bytes += count


def service_of(request: Request) -> Service:
    """The face that a request came to."""
    return cast(Service, request.app.state.service)
