"""Clients that need no Redis, no worker and no model: the real ones, but that a stand-in answers where Redis would."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from rerankq.aio import AsyncRerankClient
from rerankq.answers import JobStatus
from rerankq.client import RerankClient
from rerankq.contract.clock import RedisClock
from rerankq.contract.errors import RerankError
from rerankq.contract.heartbeats import WorkerStatus
from rerankq.contract.messages import LANES, Lane, RerankRequest, as_seconds
from rerankq.contract.orders import Pauses
from rerankq.loop_connections import Watch
from rerankq.procedures import Procedure
from rerankq.settings import ClientSettings
from rerankq.submission import Submission
from rerankq.testing.overlap import NAME
from rerankq.testing.stand_in import StandIn

_WORKERS = (WorkerStatus(name=NAME, state="ready", lanes=LANES, device=NAME, model=NAME),)


class _WithoutRedis:
    """What both fakes are."""

    settings: ClientSettings
    clock: RedisClock

    @property
    def calls(self) -> list[RerankRequest]:
        """What was asked, in order; what was refused as invalid is not in it."""
        return self._stand_in.calls

    def fail_next(self, error: RerankError) -> None:
        """Have the next request meet this error, the one after it the next, where it would really come from.

        `QueueFull`, `NoWorkers` and `BrokerUnavailable` refuse it; `JobFailed`, `DeadlineExceeded` … end its job.
        """
        if not isinstance(error, RerankError):  # pyright: ignore[reportUnnecessaryIsInstance] - a class, say
            raise TypeError(f"expected an error as a service has it, say QueueFull('full'), got {error!r}")
        self._stand_in.failures.append(error)

    @cached_property
    def _stand_in(self) -> StandIn:
        return StandIn(self.settings, self.clock)

    def _end_of(self, job_id: str, timeout: float | None) -> bytes:
        if timeout is not None:
            as_seconds(timeout)
        return self._stand_in.meta(job_id)


class FakeRerankClient(_WithoutRedis, RerankClient):
    """A `RerankClient` for tests, without Redis: each job is answered as it is submitted.

    `rerankq.bulk` speaks with Redis itself and takes no fake: `rerank_service` is for its tests.

    ```python
    client = FakeRerankClient()
    client.fail_next(QueueFull("full", {"retry_after_seconds": 3}))
    ...
    assert client.calls[0].query == "panda"
    ```
    """

    def status(self, job_id: str, *, is_ours: bool = False) -> JobStatus:
        return self._stand_in.status(job_id)

    def cancel(self, job_id: str) -> None:
        self._stand_in.call_off(job_id)

    def workers(self) -> list[WorkerStatus]:
        return list(_WORKERS)

    def lanes(self) -> dict[Lane, int]:
        return dict.fromkeys(LANES, 0)

    def paused(self) -> Pauses:
        return {}

    def deliver(self, message: Submission, watch: Any = None) -> None:
        self._stand_in.deliver(message)

    def await_answer(
        self,
        job_id: str,
        timeout: float | None,
        message: Submission | None,
        watch: Any,
        grace_seconds: float = 0.0,
    ) -> bytes:
        return self._end_of(job_id, timeout)

    def _run(self, doing: str, procedure: Procedure[Any], watch: Any = None) -> Any:
        """Nothing is asked of Redis."""


class AsyncFakeRerankClient(_WithoutRedis, AsyncRerankClient):
    """An `AsyncRerankClient` for tests, without Redis; as `FakeRerankClient`."""

    async def status(self, job_id: str, *, is_ours: bool = False) -> JobStatus:
        return self._stand_in.status(job_id)

    async def cancel(self, job_id: str) -> None:
        self._stand_in.call_off(job_id)

    async def workers(self) -> list[WorkerStatus]:
        return list(_WORKERS)

    async def lanes(self) -> dict[Lane, int]:
        return dict.fromkeys(LANES, 0)

    async def paused(self) -> Pauses:
        return {}

    @contextmanager
    def watching(self, job_id: str, *, is_early: bool = False) -> Generator[Watch]:
        yield Watch()

    async def await_answer(
        self,
        job_id: str,
        timeout: float | None,
        message: Submission | None,
        watch: Watch,
        grace_seconds: float = 0.0,
    ) -> bytes:
        await asyncio.sleep(0)
        return self._end_of(job_id, timeout)

    @property
    def _here(self) -> Any:
        return self

    async def _deliver(self, message: Submission) -> None:
        self._stand_in.deliver(message)
        await asyncio.sleep(0)  # others come to their turn, and whoever is cancelled learns of it

    async def _take_back(self, connections: Any, message: Submission, error: BaseException) -> None:
        """Nothing is left behind."""

    async def _run(self, doing: str, procedure: Procedure[Any], hear: Any = None) -> Any:
        """Nothing is asked of Redis."""
