"""A job that cannot be answered in its own time is refused at once, with a time to come back."""

import asyncio
import math
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from rerankq import AsyncRerankClient, DeadlineExceeded, NoWorkers, QueueFull, RerankClient
from rerankq.admission import Haste, Room, Surroundings, refusal, room
from rerankq.contract import keys
from rerankq.contract.heartbeats import Heartbeats, WorkerStatus
from rerankq.contract.messages import LANES
from rerankq.settings import ClientSettings
from tests.redis_server import RedisServer

SETTINGS = ClientSettings(max_interactive_jobs=100, max_interactive_wait_seconds=30)
ONE, FOUR = Surroundings(seconds_per_job={"interactive": 0.5}, job_seconds={"interactive": 0.5}), Surroundings(
    seconds_per_job={"interactive": 0.125}, job_seconds={"interactive": 0.5}
)  # fmt: skip

ROOMS = {
    "no pace is known": (Surroundings(), Haste(0.1), Room(99, math.inf)),
    "no deadline": (ONE, Haste(), Room(60, math.inf)),
    "two and a half jobs' time, a quarter to spare": (ONE, Haste(1.25), Room(60, 1)),
    "less than a job's time": (ONE, Haste(0.3), Room(60, 0)),
    "a partial answer will do": (ONE, Haste(1.25, takes_partial=True), Room(60, 2)),
    "four workers": (FOUR, Haste(1.25), Room(99, 4)),
    "too late already: its worker says so": (ONE, Haste(-1), Room(60, math.inf)),
}


@pytest.mark.parametrize(("around", "haste", "expected"), ROOMS.values(), ids=ROOMS)
def test_so_many_jobs_may_be_before_a_new_one(around: Surroundings, haste: Haste, expected: Room) -> None:
    assert room("interactive", around, haste, SETTINGS) == expected


REFUSALS = {
    "lane too long": (100, 101, Haste(), "100 jobs wait in the interactive lane, as many as may", 5.0),
    "lane too slow": (70, 71, Haste(), "about 35 s of work wait in the interactive lane", 17.5),
    "no time": (
        3,
        4,
        Haste(1.25),
        "about 2.0 s of work are ahead in the interactive lane, and the job has 1.2 s",
        1.5,
    ),
}


@pytest.mark.parametrize(
    ("waiting", "ahead", "haste", "told", "retry_after"), REFUSALS.values(), ids=REFUSALS
)
def test_who_finds_no_room_is_told_why_and_when_to_come_back(
    waiting: int, ahead: int, haste: Haste, told: str, retry_after: float
) -> None:
    error = refusal("interactive", waiting, ahead, ONE, haste, SETTINGS)

    assert str(error).startswith(told)
    assert error.retry_after_seconds == retry_after


@pytest.fixture
def paced(redis_server: RedisServer) -> Iterator[RedisServer]:
    """A worker says that it lives and takes half a second for a job; nobody takes one."""
    with redis_server.client() as redis:
        redis.flushall()
        heartbeats = Heartbeats(redis)
        heartbeats.tell(WorkerStatus(name="w@h", state="ready", lanes=LANES))
        heartbeats.tell_pace("w@h", {"interactive": 0.5})
        yield redis_server


def test_as_many_jobs_are_let_in_as_can_be_answered_in_time(paced: RedisServer) -> None:
    with RerankClient(paced.url) as client:
        for number in range(3):
            client.submit("q", ["a"], deadline=time.time() + 2, job_id=f"{number}")

        with pytest.raises(QueueFull, match="ahead in the interactive lane") as refused:
            client.submit("q", ["b"], deadline=time.time() + 2)

        assert 0 < refused.value.retry_after_seconds <= 1
        assert refused.value.details["reason"] == "too_late"
        assert client.submit("q", ["a"], deadline=time.time() + 2, job_id="2").status().state == "queued"
        client.submit("q", ["c"], deadline=time.time() + 2, on_deadline="partial")
        client.submit("q", ["d"])
        client.submit("q", ["e"], lane="bulk", deadline=time.time() + 2)  # of which no pace is known


def test_of_many_who_ask_at_once_only_as_many_are_let_in(paced: RedisServer) -> None:
    async def ask() -> list[object]:
        async with AsyncRerankClient(paced.url) as client:
            asked = [client.submit("q", [f"{n}"], deadline=time.time() + 2) for n in range(20)]
            return await asyncio.gather(*asked, return_exceptions=True)

    told = asyncio.run(ask())

    assert [isinstance(each, QueueFull) for each in told] == [False] * 3 + [True] * 17
    with paced.client() as redis:
        assert redis.llen("rerankq.interactive") == 3


@pytest.fixture
def of_two_models(redis_server: RedisServer) -> Iterator[RedisServer]:
    """A slow worker of one model, which takes what names none, and a quick one of another, which does not."""
    with redis_server.client() as redis:
        redis.flushall()
        heartbeats = Heartbeats(redis)
        for model, seconds, unnamed in (("slow", 0.5, True), ("quick", 0.001, False)):
            worker = WorkerStatus(
                name=model, state="ready", lanes=LANES, model=model, revision="1", serves_unnamed=unnamed
            )
            heartbeats.tell(worker)
            heartbeats.tell_pace(model, {"interactive": seconds})
        yield redis_server


def test_workers_of_other_models_neither_make_room_nor_delay(of_two_models: RedisServer) -> None:
    def submit(client: RerankClient, model: str | None) -> None:
        client.submit("q", ["a"], deadline=time.time() + 2, model=model)

    with RerankClient(of_two_models.url) as client:
        for _ in range(20):
            submit(client, "quick")
        for model in ("slow", None, "slow@1"):
            for _ in range(3):
                submit(client, model)
            with pytest.raises(QueueFull, match="ahead in the interactive lane"):
                submit(client, model)
        submit(client, "a model that nobody serves yet")


NOBODY = {
    "a model": ("other", "no worker serves the model other; served: slow;"),
    "a revision": ("slow@2", "no worker serves the model slow@2; served: slow@1;"),
    "no model": (None, "no worker takes jobs that name no model .* name one of those served: slow"),
    "a name without an end": ("x" * 256, "no worker serves the model x{100}…; served"),
}


@pytest.mark.parametrize(("model", "told"), NOBODY.values(), ids=NOBODY)
def test_whoever_asks_what_nobody_serves_is_told_what_is_served(
    redis_server: RedisServer, model: str | None, told: str
) -> None:
    with redis_server.client() as redis, RerankClient(redis_server.url) as client:
        redis.flushall()
        worker = WorkerStatus(name="w", state="ready", lanes=LANES, model="slow", revision="1")
        Heartbeats(redis).tell(replace(worker, serves_unnamed=model is not None))

        with pytest.raises(NoWorkers, match=told):
            client.rerank("q", ["a"], model=model)


def test_a_worker_that_loads_may_turn_out_to_be_of_the_model_that_is_asked(redis_server: RedisServer) -> None:
    with redis_server.client() as redis, RerankClient(redis_server.url) as client:
        redis.flushall()
        Heartbeats(redis).tell(WorkerStatus(name="w", state="loading", lanes=LANES))

        with pytest.raises(DeadlineExceeded):
            client.rerank("q", ["a"], model="other", timeout=0.01)


def test_refusals_are_told_with_the_next_look_around(paced: RedisServer) -> None:
    with RerankClient(paced.url) as client, paced.client() as redis:
        for _ in range(3):
            with pytest.raises(NoWorkers):
                client.rerank("q", ["a"], model="nobody's")
        redis.config_resetstat()

        client._run("looking around", client._admission.surroundings(0))

        calls = {name: told["calls"] for name, told in redis.info("commandstats").items()}
        assert redis.hgetall(keys.TOTALS) == {b"refused:no_workers": b"3"}
    assert (calls["cmdstat_hincrby"], calls["cmdstat_time"]) == (1, 1)


def test_who_may_not_count_asks_and_is_refused_all_the_same(paced: RedisServer) -> None:
    with paced.client() as redis:
        redis.execute_command("ACL", "SETUSER", "few", "on", ">x", "~*", "&*", "+@all", "-hincrby")
    with RerankClient(paced.url.replace("redis://", "redis://few:x@")) as client:
        for _ in range(3):
            with pytest.raises(NoWorkers):
                client.rerank("q", ["a"], model="nobody's")
        assert client.submit("q", ["a"]).status().state == "queued"
