"""Clients that need no Redis, no worker and no model: they validate, refuse and answer as the real ones do."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Sequence
from typing import Any, Self, Unpack

from rerankq.aio import each
from rerankq.answers import JobStatus, read_pack, read_ranking
from rerankq.contract.errors import BrokerUnavailable, NoWorkers, RerankError
from rerankq.contract.heartbeats import WorkerStatus
from rerankq.contract.messages import (
    LANES,
    Documents,
    Lane,
    Ranking,
    RequestOptions,
    RerankRequest,
    patience_seconds,
)
from rerankq.settings import ClientSettings
from rerankq.submission import as_request, askable_id, validated
from rerankq.testing.desk import Desk
from rerankq.testing.overlap import NAME


class _Fake:
    """What both clients are."""

    def __init__(
        self,
        broker_url: str | None = None,
        *,
        result_url: str | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        """
        Args:
            broker_url, result_url: as the real ones take them; nobody is asked there.
            settings: whose limits hold; those of the environment when absent.
        """
        self.settings = settings or ClientSettings.of(broker_url, result_url)
        self._desk = Desk(self.settings)

    @property
    def calls(self) -> list[RerankRequest]:
        """What was asked, in order; what was refused as invalid is not in it."""
        return self._desk.calls

    def fail_next(self, error: RerankError) -> None:
        """Have the next request meet this error, the one after it the next, where it would really come from.

        `QueueFull`, `NoWorkers` and `BrokerUnavailable` refuse it; `JobFailed`, `DeadlineExceeded` … end its job.
        """
        if not isinstance(error, RerankError):  # pyright: ignore[reportUnnecessaryIsInstance] - a class, say
            raise TypeError(f"expected an error as a service has it, say QueueFull('full'), got {error!r}")
        self._desk.failures.append(error)

    def request(self, query: str, documents: Documents, **options: Unpack[RequestOptions]) -> RerankRequest:
        """A validated request; as `RerankClient.request`."""
        return validated({"query": query, "documents": documents, **options}, self.settings)

    def _asked(
        self, query: str, documents: Documents, timeout: float | None, options: RequestOptions
    ) -> "FakeJob":
        patience = self.settings.interactive_timeout_seconds if timeout is None else timeout
        options.setdefault("deadline", time.time() + patience_seconds(patience))
        return self._submitted(self.request(query, documents, **options), None)

    def _submitted(self, request: RerankRequest, job_id: str | None) -> "FakeJob":
        texts = request.texts if request.return_documents else None
        return FakeJob(self._desk, self._desk.take(request, job_id), texts)

    def _answered(self, given: Any, options: RequestOptions) -> Ranking | RerankError:
        """The ranking of what `rerank_many` was given, or what kept it from one."""
        try:
            request = as_request(given, {"lane": "bulk", **options}, self.settings)
            return self._submitted(request, None).result()
        except (BrokerUnavailable, NoWorkers):
            raise
        except RerankError as error:
            return error


def _workers() -> list[WorkerStatus]:
    return [WorkerStatus(name=NAME, state="ready", lanes=LANES, device=NAME, model=NAME)]


class FakeRerankClient(_Fake):
    """A `RerankClient` for tests, without Redis: each job is answered as it is submitted.

    `rerankq.bulk` speaks with Redis itself and takes no fake: `rerank_service` is for its tests.

    ```python
    client = FakeRerankClient()
    client.fail_next(QueueFull("full", {"retry_after_seconds": 3}))
    ...
    assert client.calls[0].query == "panda"
    ```
    """

    def rerank(
        self,
        query: str,
        documents: Documents,
        *,
        timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Ranking:
        """The ranking; as `RerankClient.rerank`."""
        return self._asked(query, documents, timeout, options).result()

    def submit(
        self,
        query: str,
        documents: Documents,
        *,
        job_id: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> "FakeJob":
        """A promise of the ranking; as `RerankClient.submit`."""
        return self.send(self.request(query, documents, **options), job_id)

    def send(self, request: RerankRequest, job_id: str | None = None) -> "FakeJob":
        """A promise of a validated request's ranking; as `RerankClient.send`."""
        return self._submitted(request, job_id)

    def send_pack(self, requests: Sequence[RerankRequest], pack_id: str | None = None) -> "FakePack":
        """A promise of several answers; as `RerankClient.send_pack`."""
        return FakePack(self._desk, self._desk.take_pack(requests, pack_id))

    def job(self, job_id: str) -> "FakeJob":
        """The promise of a job that was submitted to this client."""
        return FakeJob(self._desk, askable_id(job_id))

    def status(self, job_id: str) -> JobStatus:
        """Where a job stands."""
        return self._desk.status(job_id)

    def cancel(self, job_id: str) -> None:
        """Call a job off; a job that is done stays done."""
        self._desk.call_off(job_id)

    def workers(self) -> list[WorkerStatus]:
        """One, and ready."""
        return _workers()

    def lanes(self) -> dict[Lane, int]:
        """Nothing waits."""
        return dict.fromkeys(LANES, 0)

    def close(self) -> None:
        """Nothing to give back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FakeJob:
    """A promise that is kept already."""

    def __init__(self, desk: Desk, job_id: str, texts: Sequence[str] | None = None) -> None:
        self.job_id = job_id
        self._desk = desk
        self._texts = texts

    def __repr__(self) -> str:
        return f"FakeJob({self.job_id!r})"

    def status(self) -> JobStatus:
        """Where the job stands."""
        return self._desk.status(self.job_id)

    def progress(self) -> tuple[int, int]:
        """Documents scored so far, and documents in all."""
        status = self.status()
        return status.scored, status.total

    def done(self) -> bool:
        """Whether an answer is there, be it a ranking or an error."""
        return self.status().state not in ("queued", "running", "unknown")

    def cancel(self) -> None:
        """Call the job off."""
        self._desk.call_off(self.job_id)

    def result(self, timeout: float | None = None) -> Ranking:
        """The ranking; as `Job.result`."""
        ranking = read_ranking(self.job_id, self._meta(timeout))
        return ranking if self._texts is None else ranking.with_documents(self._texts)

    def _meta(self, timeout: float | None) -> bytes:
        if timeout is not None:
            patience_seconds(timeout)
        return self._desk.meta(self.job_id)


class FakePack(FakeJob):
    """A promise of several answers that is kept already."""

    def answers(self, timeout: float | None = None) -> list[Ranking | RerankError]:
        """One ranking or one error for each request of the pack, in its order."""
        return read_pack(self.job_id, self._meta(timeout))


class AsyncFakeRerankClient(_Fake):
    """An `AsyncRerankClient` for tests, without Redis; as `FakeRerankClient`."""

    async def rerank(
        self,
        query: str,
        documents: Documents,
        *,
        timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Ranking:
        """The ranking; as `AsyncRerankClient.rerank`."""
        job = self._asked(query, documents, timeout, options)
        await asyncio.sleep(0)  # others come to their turn, and whoever is cancelled learns of it
        return job.result()

    async def submit(
        self,
        query: str,
        documents: Documents,
        *,
        job_id: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> "AsyncFakeJob":
        """A promise of the ranking; as `AsyncRerankClient.submit`."""
        return await self.send(self.request(query, documents, **options), job_id)

    async def send(self, request: RerankRequest, job_id: str | None = None) -> "AsyncFakeJob":
        """A promise of a validated request's ranking; as `AsyncRerankClient.send`."""
        await asyncio.sleep(0)
        return AsyncFakeJob(self._submitted(request, job_id))

    async def send_pack(
        self, requests: Sequence[RerankRequest], pack_id: str | None = None
    ) -> "AsyncFakePack":
        """A promise of several answers; as `AsyncRerankClient.send_pack`."""
        await asyncio.sleep(0)
        return AsyncFakePack(FakePack(self._desk, self._desk.take_pack(requests, pack_id)))

    async def rerank_many(
        self,
        requests: Iterable[Any] | AsyncIterable[Any],
        *,
        concurrency: int = 64,  # noqa: ARG002 - as the real one
        ordered: bool = True,  # noqa: ARG002 - as the real one
        **options: Unpack[RequestOptions],
    ) -> AsyncGenerator[tuple[Any, Ranking | RerankError]]:
        """Each request with its answer, one after the other; as `AsyncRerankClient.rerank_many`."""
        async for given in each(requests):
            yield given, self._answered(given, options)

    def job(self, job_id: str) -> "AsyncFakeJob":
        """The promise of a job that was submitted to this client."""
        return AsyncFakeJob(FakeJob(self._desk, askable_id(job_id)))

    async def status(self, job_id: str) -> JobStatus:
        """Where a job stands."""
        return self._desk.status(job_id)

    async def cancel(self, job_id: str) -> None:
        """Call a job off; a job that is done stays done."""
        self._desk.call_off(job_id)

    async def workers(self) -> list[WorkerStatus]:
        """One, and ready."""
        return _workers()

    async def lanes(self) -> dict[Lane, int]:
        """Nothing waits."""
        return dict.fromkeys(LANES, 0)

    async def close(self) -> None:
        """Nothing to give back."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncFakeJob:
    """A promise that is kept already, awaited."""

    def __init__(self, kept: FakeJob) -> None:
        self.job_id = kept.job_id
        self._kept = kept

    def __repr__(self) -> str:
        return f"AsyncFakeJob({self.job_id!r})"

    async def status(self) -> JobStatus:
        """Where the job stands."""
        return self._kept.status()

    async def progress(self) -> tuple[int, int]:
        """Documents scored so far, and documents in all."""
        return self._kept.progress()

    async def done(self) -> bool:
        """Whether an answer is there, be it a ranking or an error."""
        return self._kept.done()

    async def cancel(self) -> None:
        """Call the job off."""
        self._kept.cancel()

    async def result(self, timeout: float | None = None) -> Ranking:
        """The ranking; as `AsyncJob.result`."""
        await asyncio.sleep(0)
        return self._kept.result(timeout)


class AsyncFakePack(AsyncFakeJob):
    """A promise of several answers that is kept already, awaited."""

    def __init__(self, kept: FakePack) -> None:
        super().__init__(kept)
        self._pack = kept

    async def answers(self, timeout: float | None = None) -> list[Ranking | RerankError]:
        """One ranking or one error for each request of the pack, in its order."""
        await asyncio.sleep(0)
        return self._pack.answers(timeout)
