"""Whoever leaves calls the job off, at whatever moment and by whatever way: no job is left that nobody waits for."""

import asyncio
import gc
import json
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis as redis_py
from celery.exceptions import SoftTimeLimitExceeded

from rerankq import AsyncRerankClient, BrokerUnavailable, Cancelled, DeadlineExceeded, RerankClient
from rerankq.contract import keys
from rerankq.contract.heartbeats import Heartbeats, WorkerStatus
from rerankq.contract.messages import LANES
from rerankq.web import unless_gone
from tests.redis_server import RedisServer

LANE = "rerankq.interactive"


@pytest.fixture(autouse=True)
def redis(redis_server: RedisServer) -> Iterator[redis_py.Redis]:
    """An empty Redis where a worker says that it lives; nobody takes a job."""
    with redis_server.client(decode_responses=True) as client:
        client.flushall()
        Heartbeats(redis_server.client()).tell(WorkerStatus(name="w@h", state="ready", lanes=LANES))
        yield client


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[RerankClient]:
    with RerankClient(redis_server.url) as made:
        yield made


def wanted(redis: redis_py.Redis) -> list[str]:
    """Ids of jobs on the lane that nobody called off."""
    ids = [json.loads(message)["headers"]["id"] for message in redis.lrange(LANE, 0, -1)]
    return [job_id for job_id in ids if not redis.exists(keys.cancel(job_id))]


class GreenletTimeout(BaseException):
    """As gevent's."""


@contextmanager
def interrupted(after_seconds: float, way_out: type[BaseException]) -> Iterator[None]:
    """Whatever runs here is broken off."""

    def leave(*_: object) -> None:
        raise way_out

    before = signal.signal(signal.SIGUSR1, leave)
    gc.collect()
    gc.disable()  # what is raised within a finalizer leaves nothing
    timer = threading.Timer(after_seconds, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        timer.start()
        yield
    finally:
        timer.join()
        gc.enable()
        signal.signal(signal.SIGUSR1, before)


# redis-py, broken off while it connects, leaves its socket to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "way_out", [KeyboardInterrupt, SystemExit, SoftTimeLimitExceeded, GreenletTimeout, ValueError]
)
def test_a_call_that_is_broken_off_at_any_moment_leaves_no_job(
    client: RerankClient, redis: redis_py.Redis, way_out: type[BaseException]
) -> None:
    for tenths in range(16):
        with pytest.raises(way_out), interrupted(tenths / 5_000, way_out):
            client.rerank("q", ["a"], timeout=30)

    assert wanted(redis) == []
    client.submit("q", ["a"])  # replies are not mixed up afterwards
    assert client.lanes()["interactive"] == redis.llen(LANE) > 0


def test_a_promise_that_is_not_handed_over_is_taken_back(
    client: RerankClient, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RerankClient, "_promise", leave)
    for job_id in (None, "mine"):
        with pytest.raises(KeyboardInterrupt):
            client.submit("q", ["a"], job_id=job_id)

    assert (wanted(redis), redis.llen(LANE)) == ([], 2)


def test_what_was_taken_back_is_made_anew_when_it_is_submitted_again(
    client: RerankClient, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(RerankClient, "_promise", None)
        with pytest.raises(TypeError):
            client.submit("q", ["a"], job_id="mine")
    redis.set(keys.result("mine"), "the answer to what was taken back")

    job = client.submit("q", ["a"], job_id="mine")

    assert job.status().state == "queued"
    assert not redis.exists(keys.result("mine"))


def test_what_somebody_else_submitted_is_not_taken_back(
    client: RerankClient, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.submit("q", ["a"], job_id="ours")
    monkeypatch.setattr(RerankClient, "_promise", None)

    with pytest.raises(TypeError):
        client.submit("q", ["a"], job_id="ours")

    assert wanted(redis) == ["ours"]


def test_a_job_that_was_called_off_before_it_arrives_is_not_let_in(
    client: RerankClient, redis: redis_py.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The note may overtake the job: they travel on two connections."""
    monkeypatch.setattr("rerankq.submission.uuid.uuid4", lambda: type("Id", (), {"hex": "late"}))
    redis.set(keys.cancel("late"), 1)

    with pytest.raises(BrokerUnavailable):
        client.submit("q", ["a"])

    assert redis.llen(LANE) == 0


@pytest.mark.usefixtures("_as_patient_as_a_web_request")
def test_what_a_frozen_redis_was_sent_is_not_carried_out_when_nobody_waits_any_more(
    redis: redis_py.Redis,
) -> None:
    with RedisServer() as server, RerankClient(server.url) as client, server.client() as other:
        client.submit("q", ["a"])
        ask = client._do

        def freeze_before_sending(step: Any, hear: Any) -> Any:
            if "EVALSHA" in str(step)[:60]:
                server.freeze()
            return ask(step, hear)

        client._do = freeze_before_sending  # type: ignore[method-assign]
        with pytest.raises(BrokerUnavailable):
            client.submit("q", ["b"])
        server.thaw()

        assert other.llen(LANE) == 1


Ask = Callable[[AsyncRerankClient], Awaitable[Any]]


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda client: client.rerank("q", ["a"], timeout=30), id="rerank"),
        pytest.param(lambda client: client.submit("q", ["a"]), id="submit"),
        pytest.param(lambda client: client.submit("q", ["a"], job_id=f"{time.time()}"), id="submit, own id"),
        pytest.param(lambda client: client.send_pack([client.request("q", ["a"])]), id="a pack"),
    ],
)
def test_a_task_that_is_cancelled_at_any_await_leaves_no_job(
    redis_server: RedisServer, redis: redis_py.Redis, ask: Ask
) -> None:
    async def cancel_after(turns: int, client: AsyncRerankClient) -> bool:
        """Whether it was cancelled; a submission may be done before."""
        task = asyncio.ensure_future(ask(client))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            await client.cancel(task.result().job_id)
        return task.cancelled()

    async def cancel_at_each_turn() -> int:
        async with AsyncRerankClient(redis_server.url) as client:
            cancelled = [await cancel_after(turns, client) for turns in range(120)]
            assert wanted(redis) == []
        return sum(cancelled)

    assert asyncio.run(cancel_at_each_turn()) > 5
    assert wanted(redis) == []
    assert redis.llen(LANE) > 0


@pytest.mark.parametrize("milliseconds", [0, 1, 2, 4, 8, 30])
def test_a_loop_that_ends_leaves_no_job(
    redis_server: RedisServer, redis: redis_py.Redis, milliseconds: int
) -> None:
    """`asyncio.run` cancels all tasks at once, those that are to call jobs off among them."""

    async def leave_others_behind() -> None:
        client = AsyncRerankClient(redis_server.url)
        others = [asyncio.ensure_future(client.rerank("q", [f"{n}"], timeout=30)) for n in range(5)]
        await asyncio.wait(others, timeout=milliseconds / 1000)

    asyncio.run(leave_others_behind())

    assert wanted(redis) == []


def test_a_wait_that_runs_out_calls_the_job_off(
    client: RerankClient, redis_server: RedisServer, redis: redis_py.Redis
) -> None:
    async def ask_both_ways() -> None:
        async with AsyncRerankClient(redis_server.url) as asynchronous:
            outcomes = await asyncio.gather(
                asynchronous.rerank("q", ["a"], timeout=0.1),
                asyncio.to_thread(client.rerank, "q", ["b"], timeout=0.1),
                return_exceptions=True,
            )
            assert [type(outcome) for outcome in outcomes] == [DeadlineExceeded] * 2
            assert (wanted(redis), redis.llen(LANE)) == ([], 2)

    asyncio.run(ask_both_ways())


class OfStarlette:
    """A request with ASGI's `receive`; its caller hangs up once that is so."""

    def __init__(self, has_gone: Callable[[], bool]) -> None:
        self._has_gone = has_gone
        self._told_body = False

    async def receive(self) -> dict[str, Any]:
        if not self._told_body:
            self._told_body = True
            return {"type": "http.request", "body": b"", "more_body": False}
        while not self._has_gone():
            await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}


class OfAnother:
    """A request that can only be asked."""

    def __init__(self, has_gone: Callable[[], bool]) -> None:
        self._has_gone = has_gone

    async def is_disconnected(self) -> bool:
        return self._has_gone()


@pytest.mark.parametrize("kind", [OfStarlette, OfAnother])
def test_a_caller_that_hangs_up_calls_the_job_off(
    redis_server: RedisServer, redis: redis_py.Redis, kind: type
) -> None:
    async def ask() -> None:
        async with AsyncRerankClient(redis_server.url) as client:
            with pytest.raises(Cancelled, match="hung up"):
                await unless_gone(kind(lambda: redis.llen(LANE) > 0), client.rerank("q", ["a"], timeout=30))
            assert (wanted(redis), redis.llen(LANE)) == ([], 1)

    asyncio.run(ask())


@pytest.mark.parametrize(
    "request_",
    [OfStarlette(lambda: False), OfAnother(lambda: False), object()],
    ids=["asgi", "asked", "unlike any"],
)
def test_a_caller_that_stays_is_answered_or_told_and_nothing_runs_on(request_: object) -> None:
    async def answer(outcome: object) -> object:
        await asyncio.sleep(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def ask() -> None:
        assert await unless_gone(request_, answer(7)) == 7
        with pytest.raises(KeyError):
            await unless_gone(request_, answer(KeyError()))
        waiting = asyncio.ensure_future(unless_gone(request_, asyncio.sleep(100)))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(ask())
