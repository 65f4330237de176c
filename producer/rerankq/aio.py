"""The client for asyncio: one pub/sub connection for every waiting request, publishing in a thread.

Shares with the sync client all that does no waiting: validation, admission, the message, reading answers.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from rerankq.answers import JobStatus, is_answer, read_status
from rerankq.client import (
    ANSWER_GRACE_SECONDS,
    POLL_SECONDS,
    Documents,
    Job,
    RerankClient,
    given_up,
    no_answer_yet,
    refuse_to_wait,
)
from rerankq.contract import keys
from rerankq.contract.address import read_address
from rerankq.contract.errors import BrokerUnavailable, ResultTimeout
from rerankq.contract.messages import Ranking, patience_seconds
from rerankq.contract.stores import reply_or
from rerankq.outgoing import new_job_id
from rerankq.settings import ClientSettings

_RECONNECT_SECONDS = 0.1


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
        self._sync = RerankClient(broker_url, result_url=result_url, settings=settings)
        self.settings = self._sync.settings
        timeout = self.settings.redis_timeout_seconds
        self._broker = _async_redis(self.settings.broker_url.get_secret_value(), timeout)
        self._results = _async_redis(self.settings.effective_result_url, timeout)
        self._listener = Listener(self._results)

    async def rerank(
        self,
        query: str,
        documents: Documents,
        *,
        top_n: int | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Ranking:
        """The ranking, waited for; called off when the wait is given up or the awaiting task is cancelled.

        Args and Raises: as `RerankClient.rerank`.
        """
        timeout = patience_seconds(self.settings.interactive_timeout_seconds if timeout is None else timeout)
        options.setdefault("deadline", time.time() + timeout)
        job_id = new_job_id()
        async with self._listener.watching(job_id) as announced:  # subscribed before anybody can answer
            job = await asyncio.to_thread(self._send, query, documents, job_id, top_n=top_n, **options)
            try:
                return await job.wait(announced, timeout + ANSWER_GRACE_SECONDS)
            except ResultTimeout as error:
                await job.cancel()
                raise given_up(job_id, timeout) from error
            except asyncio.CancelledError:
                await asyncio.shield(job.cancel())
                raise

    async def submit(
        self,
        query: str,
        documents: Documents,
        *,
        job_id: str | None = None,
        top_n: int | None = None,
        **options: Any,
    ) -> "AsyncJob":
        """A promise of the ranking; as `RerankClient.submit`."""
        request = self._sync.request(query, documents, top_n=top_n, **options)
        return AsyncJob(self, await asyncio.to_thread(self._sync.send, request, job_id))

    def job(self, job_id: str) -> "AsyncJob":
        """The promise of a job that was submitted elsewhere or earlier."""
        return AsyncJob(self, self._sync.job(job_id))

    async def close(self) -> None:
        """Give the connections back."""
        await self._listener.close()
        await self._broker.aclose()
        await self._results.aclose()
        await asyncio.to_thread(self._sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def watching(self, job_id: str) -> "contextlib.AbstractAsyncContextManager[asyncio.Event]":
        """An event that is set whenever the job's answer is announced."""
        return self._listener.watching(job_id)

    async def read(self, job_id: str, *, keep_open: bool = True) -> tuple[bytes | None, JobStatus]:
        """Celery's record of a job's end, and where the job stands.

        Args:
            keep_open: as `RerankClient.keep_open`, which takes a round trip.
        """
        pipeline = self._broker.pipeline(transaction=False)
        pipeline.hgetall(keys.job(job_id))
        pipeline.exists(keys.cancel(job_id))
        pipeline.time()
        asked_at = time.monotonic()
        record, cancelled, now = await pipeline.execute(raise_on_error=False)
        self._sync.clock.learn(reply_or(now, None), asked_at)
        meta: Any = await self._results.get(keys.result(job_id))
        record = reply_or(record, {})
        if not record:
            record = await asyncio.to_thread(self._sync.record_of_the_lost, job_id)
        elif meta is None and keep_open:
            await asyncio.to_thread(self._sync.keep_open, job_id, record)
        return meta, read_status(job_id, meta, record, bool(reply_or(cancelled, 0)), self._sync.clock)

    async def cancel(self, job_id: str) -> None:
        """Call a job off."""
        await asyncio.to_thread(self._sync.cancel, job_id)

    def _send(self, query: str, documents: Documents, job_id: str, **options: Any) -> "AsyncJob":
        request = self._sync.request(query, documents, **options)
        self._sync.require_workers()
        return AsyncJob(self, self._sync.send(request, job_id))


class AsyncJob:
    """A promise of one ranking, awaited."""

    def __init__(self, client: AsyncRerankClient, job: Job) -> None:
        self.job_id = job.job_id
        self._client = client
        self._job = job

    async def status(self) -> JobStatus:
        """Where the job stands."""
        try:
            return (await self._client.read(self.job_id))[1]
        except RedisError as error:
            raise BrokerUnavailable(f"Redis did not answer while asking for job {self.job_id}") from error

    async def done(self) -> bool:
        """Whether an answer is there, be it a ranking or an error."""
        return (await self.status()).state not in ("queued", "running", "unknown")

    async def cancel(self) -> None:
        """Call the job off."""
        await self._client.cancel(self.job_id)

    async def result(self, timeout: float | None = None) -> Ranking:
        """The ranking, waited for; as `Job.result`."""
        async with self._client.watching(self.job_id) as announced:
            return await self.wait(announced, timeout)

    async def wait(self, announced: asyncio.Event, timeout: float | None) -> Ranking:
        """The ranking, looked for whenever it is announced, and now and then in case that was missed."""
        began_at = time.monotonic()
        timeout = math.inf if timeout is None else patience_seconds(timeout)
        give_up_at = began_at + timeout
        while True:
            announced.clear()
            away: RedisError | None = None
            try:
                has_waited = time.monotonic() - began_at > POLL_SECONDS / 2
                meta, status = await self._client.read(self.job_id, keep_open=has_waited)
            except RedisError as error:  # a restarting Redis is ridden out within the caller's own patience
                away = error
            else:
                if meta is None or not is_answer(meta):
                    is_forgotten = status.state == "unknown" and time.monotonic() < give_up_at
                    if not (is_forgotten and await asyncio.to_thread(self._job.is_sent_again, None)):
                        refuse_to_wait(status)
                elif not await asyncio.to_thread(self._job.is_sent_again, meta):
                    return self._job.ranking_in(meta)
            left = give_up_at - time.monotonic()
            if left <= 0 and away is not None:
                raise BrokerUnavailable(f"Redis did not answer while waiting for job {self.job_id}") from away
            if left <= 0:
                raise no_answer_yet(self.job_id, timeout)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(announced.wait(), min(left, POLL_SECONDS))


class Listener:
    """One pub/sub connection; wakes whoever watches a job."""

    def __init__(self, results: "Redis") -> None:
        self._pubsub = results.pubsub()
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._subscribed: dict[str, asyncio.Event] = {}
        self._subscribing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def watching(self, job_id: str) -> AsyncGenerator[asyncio.Event]:
        """An event that is set whenever the job's answer is announced; subscribed on entry."""
        channel, announced = keys.result(job_id), asyncio.Event()
        self._watchers.setdefault(channel, set()).add(announced)
        try:
            await self._subscribe(channel)
            yield announced
        finally:
            self._watchers[channel].discard(announced)
            if not self._watchers[channel]:
                del self._watchers[channel]
                self._subscribed.pop(channel, None)
                with contextlib.suppress(RedisError):
                    await self._pubsub.unsubscribe(channel)

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._pubsub.aclose()

    async def _subscribe(self, channel: str) -> None:
        confirmed = self._subscribed.setdefault(channel, asyncio.Event())
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen())
        try:
            await self._catch_up()
        except RedisError:
            return  # ridden out like any later outage; the listener tries again
        with contextlib.suppress(
            TimeoutError
        ):  # without it the answer is still found, by looking now and then
            await asyncio.wait_for(confirmed.wait(), POLL_SECONDS)

    async def _catch_up(self) -> None:
        """Subscribe to what is watched and is not subscribed to yet."""
        async with self._subscribing:
            missed = self._watchers.keys() - {channel.decode() for channel in self._pubsub.channels}
            if missed:
                await self._pubsub.subscribe(*missed)

    async def _listen(self) -> None:
        while True:
            try:
                await self._catch_up()
                message: Any = await self._pubsub.get_message(timeout=POLL_SECONDS)
            except RedisError:
                await asyncio.sleep(_RECONNECT_SECONDS)  # redis-py subscribes again by itself
                continue
            if message is not None:
                self._wake(message["type"], message["channel"].decode())

    def _wake(self, kind: str, channel: str) -> None:
        if kind == "subscribe" and channel in self._subscribed:
            self._subscribed[channel].set()
        for announced in self._watchers.get(channel, ()):
            announced.set()


def _async_redis(url: str, timeout_seconds: float) -> "Redis":
    limits: dict[str, Any] = {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "retry": Retry(NoBackoff(), 0),  # by itself redis-py tries for eight seconds
    }
    address = read_address(url)
    options = address.for_redis_py() | limits
    if address.is_sentinel:
        sentinel = Sentinel(address.hosts, sentinel_kwargs=limits)
        return sentinel.master_for(address.master_name, redis_class=_Master, **options)
    return Redis(**options)


class _Master(Redis):
    """A client of whichever Redis the sentinels name; closes the connections to them as well."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()
