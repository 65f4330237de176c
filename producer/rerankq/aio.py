"""The client for asyncio: takes no thread but to pack a large request, and serves whichever event loop it is used from.

Shares with the sync client all that is not I/O: validation, admission, submission, the rules of waiting.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from typing import Any, Self, TypeVar, Unpack

from redis.exceptions import RedisError

from rerankq.admission import Admission, waiting
from rerankq.answers import JobStatus, Meta, read_pack, read_ranking
from rerankq.contract.clock import RedisClock
from rerankq.contract.errors import BrokerUnavailable, NoWorkers, QueueFull, RerankError, ResultTimeout
from rerankq.contract.heartbeats import WorkerStatus
from rerankq.contract.messages import (
    LANES,
    Documents,
    Lane,
    Ranking,
    RequestOptions,
    RerankRequest,
    as_seconds,
)
from rerankq.contract.orders import Pauses
from rerankq.loop_connections import LoopConnections, Watch
from rerankq.procedures import Ask, Listen, Pause, Procedure, Step, errors_as_ours, run_async
from rerankq.settings import ClientSettings
from rerankq.submission import (
    Submission,
    as_asked,
    as_request,
    askable_id,
    deliver,
    job_submission,
    pack_submission,
    take_back,
    validated,
)
from rerankq.waiting import (
    ANSWER_GRACE_SECONDS,
    RECONNECT_SECONDS,
    answer_of,
    call_off,
    given_up,
    look_and_keep,
    may_leave_a_job,
)

LARGE_CHARACTERS = 500_000  # from here on packing takes milliseconds, in which nobody else would be served
LONGEST_HOLD_SECONDS = 5.0  # a full lane is asked again at least this often

T = TypeVar("T")
Sent = TypeVar("Sent", RerankRequest, Sequence[RerankRequest])


@cache
def _packers(_pid: int) -> ThreadPoolExecutor:
    """Of our own: asyncio's are for the application. Of a process: a forked one has not got the thread."""
    return ThreadPoolExecutor(1, "rerankq-pack")


class AsyncRerankClient:
    """Asks a rerankq service from an event loop; one per process, closed with `await client.close()`.

    ```python
    async with AsyncRerankClient("redis://127.0.0.1:6379/0") as client:
        ranking = await client.rerank("capital of China", ["Beijing is ...", "Shanghai is ..."], top_n=1)
    ```
    """

    def __init__(
        self,
        broker_url: str | None = None,
        *,
        result_url: str | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self.settings = settings or ClientSettings.of(broker_url, result_url)
        self._admission = Admission(self.settings)
        self.clock = self._admission.clock
        self._connections: dict[asyncio.AbstractEventLoop, LoopConnections] = {}

    async def rerank(
        self,
        query: str,
        documents: Documents,
        *,
        timeout: float | None = None,
        **options: Unpack[RequestOptions],
    ) -> Ranking:
        """The ranking, waited for; called off when the wait is given up or the awaiting task is cancelled.

        Args and Raises: as `RerankClient.rerank`.
        """
        timeout = as_seconds(self.settings.interactive_timeout_seconds if timeout is None else timeout)
        give_up_at = time.monotonic() + timeout + ANSWER_GRACE_SECONDS
        options.setdefault("deadline", time.time() + timeout)
        request = self.request(query, documents, **options)
        await self._require_workers(request.model)
        message, connections = await self._packed(job_submission, request, None), self._here
        with connections.watching(message.job_id, is_early=True) as watch:  # before anybody can answer
            try:
                await self._deliver(message)
                left = give_up_at - time.monotonic()
                return await self._promise(message).wait(watch, left, ANSWER_GRACE_SECONDS)
            except BaseException as error:
                await self._take_back(connections, message, error)
                if isinstance(error, ResultTimeout):
                    raise given_up(message.job_id, timeout, error) from error
                raise

    async def submit(
        self,
        query: str,
        documents: Documents,
        *,
        job_id: str | None = None,
        **options: Unpack[RequestOptions],
    ) -> "AsyncJob":
        """A promise of the ranking; as `RerankClient.submit`."""
        return await self.send(self.request(query, documents, **options), job_id)

    async def send(self, request: RerankRequest, job_id: str | None = None) -> "AsyncJob":
        """Put a validated request on its lane."""
        await self._learn_the_time()
        message = await self._packed(job_submission, request, job_id)
        await self._deliver_or_take_back(message)
        return self._promise(message)

    async def send_pack(self, requests: Sequence[RerankRequest], pack_id: str | None = None) -> "AsyncPack":
        """Put several requests on their lane as one message; as `RerankClient.send_pack`."""
        await self._learn_the_time()
        message = await self._packed(pack_submission, requests, pack_id)
        await self._deliver_or_take_back(message)
        return AsyncPack(self, message.job_id, message)

    async def rerank_many(
        self,
        requests: Iterable[Any] | AsyncIterable[Any],
        *,
        concurrency: int = 64,
        ordered: bool = True,
        **options: Unpack[RequestOptions],
    ) -> AsyncGenerator[tuple[Any, Ranking | RerankError]]:
        """Each request with its ranking, or with the error that kept it from one.

        What is under way when this is closed, or its task cancelled, is called off.

        Args:
            requests: `RerankRequest`s, `{"query", "documents", …}` mappings or `(query, documents)` pairs, read as
                needed. Keys of a mapping that are no field of `RerankRequest` are the caller's own.
            concurrency: how many are under way at once.
            ordered: answers in the order of the requests; False gives each as it comes.
            options: fields of `RerankRequest` for all of them; the lane is `bulk` unless told.

        Raises:
            BrokerUnavailable, NoWorkers: it was so for longer than `RERANKQ_BULK_PATIENCE_SECONDS`.
        """
        asked: dict[asyncio.Task[Ranking | RerankError], Any] = {}
        try:
            async for request in each(requests):
                asked[asyncio.create_task(self._answer(request, options))] = request
                if len(asked) >= concurrency:
                    yield await _first(asked, ordered)
            while asked:
                yield await _first(asked, ordered)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    def request(self, query: str, documents: Documents, **options: Unpack[RequestOptions]) -> RerankRequest:
        """A validated request; as `RerankClient.request`."""
        return validated({"query": query, "documents": documents, **options}, self.settings)

    def job(self, job_id: str) -> "AsyncJob":
        """The promise of a job that was submitted elsewhere or earlier."""
        return AsyncJob(self, askable_id(job_id))

    async def cancel(self, job_id: str) -> None:
        """Call a job off."""
        await self._run(f"cancelling job {job_id}", call_off(job_id))

    async def status(self, job_id: str, *, is_ours: bool = False) -> JobStatus:
        """Where a job stands; as `RerankClient.status`."""
        return await self._run(f"asking for job {job_id}", look_and_keep(job_id, self.clock, is_ours=is_ours))

    async def workers(self) -> list[WorkerStatus]:
        """The workers heard of in the last seconds."""
        around = await self._run("asking for workers", self._admission.surroundings(max_age_seconds=0.2))
        return list(around.workers)

    async def paused(self) -> Pauses:
        """The lanes that are paused; as `RerankClient.paused`."""
        around = await self._run("asking for paused lanes", self._admission.surroundings(max_age_seconds=0.2))
        return around.pauses

    async def lanes(self) -> dict[Lane, int]:
        """Jobs that wait in each lane, whichever model they name."""
        found = await self._run("asking for lanes", waiting())
        return {lane: sum(jobs for (each, _), jobs in found.items() if each == lane) for lane in LANES}

    async def close(self) -> None:
        """Give the connections back."""
        made, self._connections = list(self._connections.values()), {}
        for connections in made:
            await connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def watching(self, job_id: str) -> "contextlib.AbstractContextManager[Watch]":
        """Watch for a job's end."""
        return self._here.watching(job_id)

    async def await_answer(
        self,
        job_id: str,
        timeout: float | None,
        message: Submission | None,
        watch: Watch,
        grace_seconds: float = 0.0,
    ) -> Meta:
        """Celery's record of a job's end; as `RerankClient.await_answer`."""
        again = None if message is None else lambda: deliver(message, self._admission, self.settings)
        procedure = answer_of(job_id, timeout, self.clock, again, grace_seconds, is_heard_of=watch.is_early)
        return await self._run(f"waiting for job {job_id}", procedure, lambda step: watch.hear(step.seconds))

    @property
    def _here(self) -> LoopConnections:
        """The connections of the loop that runs here."""
        loop = asyncio.get_running_loop()
        connections = self._connections.get(loop)
        if connections is None or not connections.is_open:
            for ended in [each for each, made in list(self._connections.items()) if not made.is_open]:
                self._connections.pop(ended, None)
            connections = self._connections[loop] = LoopConnections(self.settings)
        return connections

    async def _answer(self, given: Any, options: RequestOptions) -> Ranking | RerankError:
        """The ranking of what `rerank_many` was given, or what kept it from one."""
        try:
            request = as_request(given, {"lane": "bulk", **options}, self.settings)
            return await self._answer_in_the_end(request)
        except (BrokerUnavailable, NoWorkers):
            raise
        except RerankError as error:
            return error

    async def _answer_in_the_end(self, request: RerankRequest) -> Ranking:
        """The ranking, however long the lane is."""
        budget_seconds = self.settings.bulk_patience_seconds
        await self._run("asking for workers", self._admission.surroundings())
        message, connections = await self._packed(job_submission, request, None), self._here
        with connections.watching(message.job_id, is_early=True) as watch:
            try:
                await self._deliver_in_the_end(message, time.monotonic() + budget_seconds)
                while True:
                    with contextlib.suppress(ResultTimeout):
                        return await self._promise(message).wait(watch, budget_seconds)
                    await self._require_workers(request.model)
            except BaseException as error:
                await self._take_back(connections, message, error)
                raise

    async def _deliver_in_the_end(self, message: Submission, give_up_at: float) -> None:
        while True:
            try:
                return await self._deliver(message)
            except QueueFull as error:
                await asyncio.sleep(min(error.retry_after_seconds, LONGEST_HOLD_SECONDS))
            except BrokerUnavailable:
                if time.monotonic() > give_up_at:
                    raise
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _require_workers(self, model: str | None) -> None:
        await self._run("asking for workers", self._admission.require_workers(model))

    async def _packed(
        self, pack: Callable[[Sent, str | None, RedisClock], Submission], asked: Sent, job_id: str | None
    ) -> Submission:
        requests = [asked] if isinstance(asked, RerankRequest) else asked
        if sum(request.characters for request in requests) < LARGE_CHARACTERS:
            return pack(asked, job_id, self.clock)
        here = copy_context()  # where the current span is
        return await asyncio.get_running_loop().run_in_executor(
            _packers(os.getpid()), lambda: here.run(pack, asked, job_id, self.clock)
        )

    async def _deliver(self, message: Submission) -> None:
        procedure = deliver(message, self._admission, self.settings)
        await self._run(f"submitting job {message.job_id}", procedure)

    async def _deliver_or_take_back(self, message: Submission) -> None:
        connections = self._here
        try:
            await self._deliver(message)
        except BaseException as error:
            await self._take_back(connections, message, error)
            raise

    async def _learn_the_time(self) -> None:
        """Redis's, as of the look around that admission needs anyway."""
        await self._run("submitting a job", self._admission.surroundings())

    def _promise(self, message: Submission) -> "AsyncJob":
        return AsyncJob(self, message.job_id, message)

    async def _take_back(
        self, connections: LoopConnections, message: Submission, error: BaseException
    ) -> None:
        """Leave no job behind that nobody waits for."""
        is_away = isinstance(error, BrokerUnavailable)
        if not (is_away or may_leave_a_job(error)):
            return
        told = connections.tell(take_back(message))  # on its way from here on, whatever becomes of us
        if not is_away:
            with contextlib.suppress(RedisError, TimeoutError):
                async with asyncio.timeout(self.settings.redis_timeout_seconds):
                    await asyncio.shield(told)

    async def _run(
        self, doing: str, procedure: Procedure[T], hear: Callable[[Listen], Any] | None = None
    ) -> T:
        connections = self._here

        async def do(step: Step) -> Any:
            if not connections.is_open:
                raise BrokerUnavailable(f"the client was closed while {doing}")
            tried(step)
            match step:
                case Ask():
                    return await connections.ask(step)
                case Listen():
                    return None if hear is None else await hear(step)
                case Pause(seconds):
                    return await asyncio.sleep(seconds)

        with errors_as_ours(doing, self.settings) as tried:
            return await run_async(procedure, do)


class AsyncJob:
    """A promise of one ranking, awaited."""

    def __init__(self, client: AsyncRerankClient, job_id: str, message: Submission | None = None) -> None:
        self.job_id = job_id
        self._client = client
        self._message = message

    def __repr__(self) -> str:
        return f"AsyncJob({self.job_id!r})"

    async def status(self) -> JobStatus:
        """Where the job stands."""
        return await self._client.status(self.job_id, is_ours=self._message is not None)

    async def progress(self) -> tuple[int, int]:
        """Documents scored so far, and documents in all."""
        status = await self.status()
        return status.scored, status.total

    async def done(self) -> bool:
        """Whether an answer is there, be it a ranking or an error."""
        return (await self.status()).state not in ("queued", "running", "unknown")

    async def cancel(self) -> None:
        """Call the job off."""
        await self._client.cancel(self.job_id)

    async def result(self, timeout: float | None = None) -> Ranking:
        """The ranking, waited for; as `Job.result`."""
        with self._client.watching(self.job_id) as watch:
            return await self.wait(watch, timeout)

    async def wait(self, watch: Watch, timeout: float | None, grace_seconds: float = 0.0) -> Ranking:
        """The ranking, looked for whenever it is announced, and now and then in case that was missed."""
        meta = await self._meta(watch, timeout, grace_seconds)
        return as_asked(read_ranking(self.job_id, meta), self._message)

    async def _meta(self, watch: Watch, timeout: float | None, grace_seconds: float = 0.0) -> Meta:
        return await self._client.await_answer(self.job_id, timeout, self._message, watch, grace_seconds)


class AsyncPack(AsyncJob):
    """A promise of several answers that travel together, awaited."""

    async def answers(self, timeout: float | None = None) -> list[Ranking | RerankError]:
        """One ranking or one error for each request of the pack, in its order."""
        with self._client.watching(self.job_id) as watch:
            return read_pack(self.job_id, await self._meta(watch, timeout))


async def each(requests: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any]:
    """The requests, wherever they come from."""
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request


async def _first(
    asked: dict[asyncio.Task[Ranking | RerankError], Any], ordered: bool
) -> tuple[Any, Ranking | RerankError]:
    """The first of these tasks, or the first that is done, with what it was asked."""
    done = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED) if not ordered else None
    task = next(iter(asked)) if done is None else next(task for task in asked if task in done[0])
    answer = await task
    return asked.pop(task), answer
