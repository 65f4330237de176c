"""From an event loop: no threads, three connections however many ask, nothing left behind, bounds that hold."""

import asyncio
import contextlib
import multiprocessing
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import redis as redis_py
from redis.exceptions import TimeoutError as RedisTimeoutError

from rerankq import (
    AsyncJob,
    AsyncRerankClient,
    BrokerUnavailable,
    InvalidRequest,
    NoWorkers,
    Ranking,
    RerankClient,
    aio,
    loop_connections,
)
from rerankq.contract.heartbeats import Heartbeats, WorkerStatus
from rerankq.contract.messages import LANES
from rerankq.settings import ClientSettings
from rerankq.submission import job_submission
from tests.redis_server import RedisServer
from tests.service import Service


@pytest.fixture(scope="module")
def service(idle_service: Service) -> Service:
    return idle_service


@pytest.fixture
def redis(service: Service) -> Iterator[redis_py.Redis]:
    with service.redis.client(decode_responses=True) as client:
        client.ping()
        yield client


@pytest.fixture
def ours(service: Service, redis: redis_py.Redis) -> Callable[[], int]:
    """How many connections this process has to Redis beside those of before."""
    this, port = psutil.Process(), service.redis.port

    def established() -> int:
        return sum(
            each.raddr[1:] == (port,) for each in this.net_connections("tcp") if each.status == "ESTABLISHED"
        )

    before = established()
    return lambda: established() - before


def ask(service: Service, what: Callable[[AsyncRerankClient], Awaitable[Any]]) -> Any:
    async def asking() -> Any:
        async with AsyncRerankClient(service.redis.url) as client:
            return await what(client)

    return asyncio.run(asking())


def test_a_large_request_is_packed_beside_the_loop(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    packed_in: list[str] = []

    def packed(*asked: Any) -> Any:
        packed_in.append(threading.current_thread().name)
        return job_submission(*asked)

    monkeypatch.setattr(aio, "job_submission", packed)
    for documents in (["a"], ["a " * 200_000] * 2):
        ask(service, lambda client, documents=documents: client.rerank("q", documents, timeout=60))

    assert packed_in == ["MainThread", "rerankq-pack_0"]


def test_a_forked_process_packs_large_requests_by_a_thread_of_its_own(service: Service) -> None:
    def ask_for_much() -> None:
        ask(service, lambda client: client.rerank("q", ["a " * 200_000] * 2, timeout=30))

    ask_for_much()
    child = multiprocessing.get_context("fork").Process(target=ask_for_much)
    child.start()
    child.join(60)
    child.kill()

    assert child.exitcode == 0


def test_many_first_calls_at_once_share_three_connections_and_leave_nothing(
    service: Service, redis: redis_py.Redis, ours: Callable[[], int]
) -> None:
    threads = threading.active_count()

    async def first_calls(client: AsyncRerankClient) -> int:
        calls = [client.rerank("q", [f"{n}", "b"], timeout=30) for n in range(64)]
        assert [ranking.scored for ranking in await asyncio.gather(*calls)] == [2] * 64
        assert threading.active_count() == threads
        assert len(redis.pubsub_channels("celery-task-meta-?*")) == 0
        return ours()

    async def and_close() -> int:
        async with AsyncRerankClient(service.redis.url) as client:
            most = await first_calls(client)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return most

    assert asyncio.run(and_close()) <= 3
    service.wait_until(lambda: ours() == 0)


def test_whoever_listens_before_a_job_is_sent_looks_for_nothing(
    service: Service, redis: redis_py.Redis
) -> None:
    def looks() -> int:
        return redis.info("commandstats")["cmdstat_hgetall"]["calls"]

    async def looks_for(jobs: int) -> int:
        async with AsyncRerankClient(service.redis.url) as client:
            await client.rerank("q", ["a"], timeout=30)  # connects
            before = looks()
            for number in range(jobs):
                await client.rerank("q", [f"{number}"], timeout=30)
            return looks() - before

    assert asyncio.run(looks_for(20)) < 20  # some look at workers now and then


def test_a_second_loop_is_served_by_the_same_client(service: Service, ours: Callable[[], int]) -> None:
    client = AsyncRerankClient(service.redis.url)

    async def once() -> bool:
        return (await client.rerank("q", ["a"], timeout=30)).complete

    assert [asyncio.run(once()) for _ in range(3)] == [True] * 3  # nobody closes it
    service.wait_until(lambda: ours() == 0)


def test_a_loop_for_each_request_in_many_threads_at_once(service: Service, ours: Callable[[], int]) -> None:
    """As Django's asynchronous views are run under WSGI."""
    client = AsyncRerankClient(service.redis.url)

    def request(number: int) -> bool:
        async def view() -> bool:
            return (await client.rerank("q", [f"{number}"], timeout=30)).complete

        return asyncio.run(view())

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(request, range(40))) == [True] * 40
    service.wait_until(lambda: ours() == 0)
    assert len(client._connections) <= 9


def test_closing_from_another_loop_ends_the_first_ones_connections(
    service: Service, ours: Callable[[], int]
) -> None:
    client, asked, closed = AsyncRerankClient(service.redis.url), threading.Event(), threading.Event()

    async def elsewhere() -> None:
        await client.rerank("q", ["a"], timeout=30)
        asked.set()
        while not closed.is_set() or ours() > 0:
            await asyncio.sleep(0.02)

    thread = threading.Thread(target=lambda: asyncio.run(elsewhere()))
    thread.start()
    assert asked.wait(30)
    asyncio.run(client.close())
    closed.set()
    thread.join(30)

    assert not thread.is_alive()


def test_closing_ends_the_calls_that_wait_and_calls_their_jobs_off(frozen: RedisServer) -> None:
    async def close_while_others_wait() -> list[object]:
        client = AsyncRerankClient(frozen.url)
        waiting = [asyncio.ensure_future(client.rerank("q", [f"{n}"], timeout=30)) for n in range(4)]
        while (await client.lanes())["interactive"] < 4:
            await asyncio.sleep(0.01)
        await client.close()
        told = await asyncio.gather(*waiting, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return told

    told = asyncio.run(close_while_others_wait())

    assert all(isinstance(error, BrokerUnavailable) for error in told)
    with frozen.client() as redis:
        assert len(redis.keys("rerankq:cancel:*")) == 4


def test_a_restarted_redis_is_found_again_by_whoever_waits() -> None:
    with RedisServer(appendonly=True) as server:

        async def wait() -> Ranking:
            async with AsyncRerankClient(server.url) as client:
                job = await client.submit("q", ["a"])
                waiting = asyncio.ensure_future(job.result(timeout=30))
                await asyncio.sleep(0.1)
                server.kill()
                await asyncio.sleep(0.3)
                server.start()
                await asyncio.sleep(0.3)
                await job.cancel()
                return await waiting

        with pytest.raises(Exception, match="was cancelled"):
            asyncio.run(wait())


@pytest.mark.parametrize("turns_later", range(8))
def test_whoever_ends_in_the_moment_that_a_connection_breaks_ends(
    redis_server: RedisServer, turns_later: int
) -> None:
    """As a loop for each request does, around a restart of Redis."""

    async def end(redis: redis_py.Redis) -> None:
        client = AsyncRerankClient(redis_server.url)
        with client.watching("job"):
            while not redis.pubsub_channels("celery-task-meta-job"):
                await asyncio.sleep(0.01)
            redis.client_kill_filter(_type="pubsub")
            for _ in range(turns_later):
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                await client.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with redis_server.client() as redis:
        asyncio.run(end(redis))


def test_whoever_waits_is_cancelled_although_what_they_wait_for_misses_it_once() -> None:
    async def hears_the_second_time() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Future[None]()
        await asyncio.Future[None]()

    async def cancel() -> bool:
        waiting = asyncio.create_task(loop_connections._until_one_ends(hears_the_second_time()))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait({waiting}, timeout=5)
        return waiting.cancelled()

    assert asyncio.run(cancel())


def test_a_loop_that_is_held_up_again_and_again_waits_for_a_silent_redis_no_longer_than_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop_connections, "_LATE_SECONDS", 0.001)

    async def hold_up() -> None:
        while True:
            time.sleep(0.01)
            await asyncio.sleep(0)

    async def wait() -> None:
        holding = asyncio.create_task(hold_up())
        async with asyncio.timeout(10):
            with pytest.raises(RedisTimeoutError):
                await loop_connections._in_time(asyncio.get_running_loop().create_future(), 0.005)
        holding.cancel()

    asyncio.run(wait())


@pytest.fixture
def frozen() -> Iterator[RedisServer]:
    """A Redis where a worker says that it lives; nobody takes a job."""
    with RedisServer() as server:
        Heartbeats(server.client()).tell(WorkerStatus(name="w@h", state="ready", lanes=LANES))
        yield server


CALLS = {
    "submit": (lambda client: client.submit("q", ["a"]), 0.0),
    "rerank": (lambda client: client.rerank("q", ["a"], timeout=1.5), 1.5),
    "status": (lambda client: client.job("j").status(), 0.0),
    "result": (lambda client: client.job("j").result(timeout=1.5), 1.5),
    "workers": (lambda client: client.workers(), 0.0),
}


@pytest.mark.usefixtures("_as_patient_as_a_web_request")
@pytest.mark.parametrize(
    ("name", "freezes_after"), [*((name, 0.0) for name in CALLS), ("rerank", 0.7), ("result", 0.7)]
)
def test_every_call_of_many_ends_soon_when_redis_is_frozen(
    frozen: RedisServer, name: str, freezes_after: float
) -> None:
    call, patience = CALLS[name]

    async def timed(client: AsyncRerankClient) -> float:
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            await call(client)
        return time.monotonic() - began

    async def ask_all() -> list[float]:
        async with AsyncRerankClient(frozen.url) as client:
            await client.lanes()
            freezing = asyncio.get_running_loop().call_later(freezes_after, frozen.freeze)
            await asyncio.sleep(0.01)
            spent = await asyncio.gather(*(timed(client) for _ in range(64)))
            assert not freezing.cancelled()
            frozen.thaw()
            return spent

    with frozen.client() as redis:
        redis.hset("rerankq:job:j", mapping={"lane": "bulk"})

    # The bound is the timeout of Redis and half a second; it was 6.5 s, and this machine may be busy.
    assert max(asyncio.run(ask_all())) < patience + ClientSettings().redis_timeout_seconds + 1.5


def test_many_requests_come_back_in_order_or_as_they_are_done(service: Service) -> None:
    async def many(client: AsyncRerankClient) -> None:
        given: list[Any] = [("q", ["a"] * count) for count in range(1, 30)]
        given[7:7] = [{"query": "q", "documents": ["x", "y"], "my_id": 7, "top_n": 1}, ("", ["a"]), 3]

        answers = [each async for each in client.rerank_many(given, concurrency=5)]

        assert [request for request, _ in answers] == given
        assert [type(answer) for _, answer in answers[8:10]] == [InvalidRequest] * 2
        assert all(isinstance(answer, Ranking) for _, answer in answers[:8] + answers[10:])
        assert len(answers[7][1]) == 1
        as_done = [each async for each in client.rerank_many(iter(given[:5]), concurrency=3, ordered=False)]
        assert len(as_done) == 5

    ask(service, many)


def test_many_requests_that_are_left_are_called_off(frozen: RedisServer) -> None:
    async def leave() -> None:
        async with AsyncRerankClient(frozen.url) as client:
            many = client.rerank_many((("q", [f"{n}"]) for n in range(100)), concurrency=4)
            first = asyncio.ensure_future(anext(many))
            while (await client.lanes())["bulk"] < 4:
                await asyncio.sleep(0.01)
            first.cancel()
            await asyncio.wait({first})

    asyncio.run(leave())

    with frozen.client() as redis:
        assert redis.llen("rerankq.bulk") == len(redis.keys("rerankq:cancel:*")) == 4


@pytest.mark.parametrize(
    ("url", "error"),
    [("redis://127.0.0.1:1/0", BrokerUnavailable), (None, NoWorkers)],
    ids=["no Redis", "no worker"],
)
def test_many_requests_that_nobody_can_answer_end_with_patience(
    redis_server: RedisServer, url: str | None, error: type[Exception]
) -> None:
    async def ask_in_vain() -> None:
        settings = ClientSettings(broker_url=url or redis_server.url, bulk_patience_seconds=0.3)
        async with AsyncRerankClient(settings=settings) as client:
            async for _ in client.rerank_many([("q", ["a"])]):
                pass

    with pytest.raises(error):
        asyncio.run(ask_in_vain())


def test_an_id_that_cannot_be_sent_disturbs_nobody_else(service: Service) -> None:
    async def look(client: AsyncRerankClient) -> list[object]:
        good, bad = client.rerank("q", ["a"], timeout=30), AsyncJob(client, "\ud800")
        return await asyncio.gather(bad.status(), bad.result(1), good, return_exceptions=True)

    status, result, ranking = ask(service, look)

    assert [type(status), type(result), type(ranking)] == [UnicodeEncodeError, UnicodeEncodeError, Ranking]


def test_workers_lanes_and_progress_are_those_of_the_sync_client(service: Service) -> None:
    async def look(client: AsyncRerankClient) -> tuple[object, ...]:
        job = await client.submit("q", ["a", "b"])
        await job.result(30)
        return {w.name for w in await client.workers()}, await client.lanes(), await job.progress()

    with RerankClient(service.redis.url) as client:
        assert ask(service, look) == ({w.name for w in client.workers()}, client.lanes(), (2, 2))


def test_a_loop_that_was_held_up_is_not_taken_for_a_silent_redis(service: Service) -> None:
    settings = ClientSettings.of(service.redis.url, None).model_copy(update={"redis_timeout_seconds": 0.2})

    async def held_up() -> list[WorkerStatus]:
        async with AsyncRerankClient(settings=settings) as client:
            asked = asyncio.create_task(client.status("never-asked"))
            while not client._connections:  # pyright: ignore[reportPrivateUsage] - until the question is on its way
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            time.sleep(0.5)  # as a body of many MB does
            await asked
            return await client.workers()

    assert asyncio.run(held_up())
