"""Dead letters put back by several at once, and by commands that are killed: each job waits once, or is dead still."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from redis import Redis

from rerankq.cli.dead import retried
from rerankq.contract import keys, wire
from rerankq.contract.transport.dead_letters import DeadLetters
from tests.cli.conftest import Command, CommandInHere
from tests.redis_server import RedisServer

LANE = "rerankq.bulk"


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    """One with no worker behind it."""
    with RedisServer() as running, running.client() as client:
        yield client


@pytest.fixture
def rerankq(redis: Redis) -> Command:
    told = redis.connection_pool.connection_kwargs
    return Command({**os.environ, "RERANKQ_BROKER_URL": f"redis://{told['host']}:{told['port']}/0"})


def set_aside(redis: Redis, *ids: str) -> None:
    for each in ids:
        message = {"headers": {"id": each, "rerankq-payload": keys.payload(each)}, "body": ""}
        held = f"{LANE}\n".encode() + wire.encode({**message, "properties": {"delivery_info": {}}})
        redis.set(keys.dead_message(each), held)
        redis.hset(keys.dead_letter(each), "reason", "JobFailed: given up")
        redis.zadd(keys.DEAD, {each: 1})


def waiting(redis: Redis) -> Counter[str]:
    return Counter(wire.decode(message)["headers"]["id"] for message in redis.lrange(LANE, 0, -1))


def test_an_answer_that_came_while_somebody_else_retried_the_job_stays(redis: Redis) -> None:
    class Overtaken(DeadLetters):
        """Somebody else retries the job, and it is answered, just after this one has looked."""

        def check(self, letter_id: str) -> bool:
            is_there = super().check(letter_id)
            if super().retry(letter_id):
                redis.hset(keys.job(letter_id), "answered", 2)
                redis.set(keys.result(letter_id), "its ranking")
            return is_there

    set_aside(redis, "raced")
    redis.set(keys.result("raced"), "that it was given up")

    assert not retried(Overtaken(redis), "raced", redis)

    assert redis.get(keys.result("raced")) == b"its ranking"
    assert redis.hget(keys.job("raced"), "answered") == b"2"


def test_a_job_that_is_retried_has_its_old_answer_and_attempts_forgotten_and_its_body_kept(
    redis: Redis,
) -> None:
    set_aside(redis, "old")
    redis.set(keys.payload("old"), "text", ex=5)
    redis.set(keys.result("old"), "that it was given up")
    redis.hset(keys.job("old"), mapping={"answered": 1, "started": 1, "attempts": 3, "lane": "bulk"})

    assert retried(DeadLetters(redis), "old", redis)

    assert not redis.exists(keys.result("old"))
    assert redis.hgetall(keys.job("old")) == {b"lane": b"bulk"}
    assert min(redis.ttl(keys.payload("old")), redis.ttl(keys.job("old"))) > 3600


@pytest.mark.parametrize("act", ["retry", "drop"])
@pytest.mark.parametrize("meant", ["kept", "--all"], ids=["one by its id", "all"])
def test_a_dry_run_changes_nothing(redis: Redis, rerankq: Command, act: str, meant: str) -> None:
    redis.flushdb()
    set_aside(redis, "kept")

    told = CommandInHere(rerankq.environment).run("dead", act, meant, "--dry-run", "--json")

    assert json.loads(told.out) == {"count": 1, "ids": ["kept"]}
    assert redis.exists(keys.dead_message("kept"), keys.dead_letter("kept"), LANE) == 2


@pytest.mark.parametrize("away", ["RERANKQ_BROKER_URL", "RERANKQ_RESULT_URL"])
def test_whichever_redis_is_away_is_the_one_that_is_named(redis: Redis, rerankq: Command, away: str) -> None:
    redis.flushdb()
    set_aside(redis, "kept")
    gone = {away: "redis://127.0.0.1:1/7"}
    here = CommandInHere(
        {"RERANKQ_RESULT_URL": rerankq.environment["RERANKQ_BROKER_URL"]} | rerankq.environment | gone
    )

    told = [here.run("dead", "retry", which, exit_code=3).err for which in ("kept", "--all")]

    assert all("Redis (127.0.0.1:1, database 7) did not answer" in each for each in told)
    assert redis.exists(keys.dead_message("kept"))


def test_two_operators_and_one_that_is_killed_put_each_job_back_once(redis: Redis, rerankq: Command) -> None:
    redis.flushdb()
    ids = [f"job{n}" for n in range(150)]
    set_aside(redis, *ids)

    with rerankq.start("dead", "retry", "--all") as killed:
        while redis.llen(LANE) < random.randrange(1, 100):
            time.sleep(0.001)
        killed.kill()
    left = [each for each in ids if redis.exists(keys.dead_message(each))]
    assert sorted([*left, *waiting(redis)]) == sorted(ids)

    with (
        rerankq.start("dead", "retry", "--all", "--json") as one,
        rerankq.start("dead", "retry", "--all", "--json") as other,
    ):
        told = [json.loads(each.communicate()[0])["retried"] for each in (one, other)]

    assert waiting(redis) == Counter(ids)
    assert sorted(told[0] + told[1]) == sorted(left)
