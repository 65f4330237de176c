"""What every route needs: the client that asks, the settings, the keys, and who is waiting."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from starlette.requests import Request

from rerankq.aio import AsyncRerankClient
from rerankq.contract.errors import QueueFull
from rerankq.http.keys import Keys
from rerankq.http.settings import HttpSettings


@dataclass
class Service:
    """One process's HTTP face."""

    client: AsyncRerankClient
    settings: HttpSettings
    keys: Keys
    waiting: int = field(default=0, init=False)

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


def service_of(request: Request) -> Service:
    """The face that a request came to."""
    return cast(Service, request.app.state.service)
