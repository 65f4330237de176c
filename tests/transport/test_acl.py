"""The Redis users of deploy/redis/users.acl can no more than their work: tests/deploy/test_redis_users.py has that."""

from collections.abc import Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.guarded_redis import GuardedRedis


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedRedis]:
    with GuardedRedis() as running:
        yield running


def refused_for_want_of_rights(error: redis.ResponseError) -> bool:
    """Whether this is Redis saying so; 6.2 and 7 word it differently, and again within a script."""
    ways = ("no permissions", "acl failure", "the user executing the script can't")
    return any(way in str(error).lower() for way in ways)


@pytest.mark.parametrize(
    "command",
    ["FLUSHALL", "KEYS *", "CONFIG GET *", "RPOP rerankq.bulk", "LRANGE rerankq.bulk 0 -1", "GET rerankq:dead:x",
     "HGETALL rerankq:held", "SHUTDOWN", "PUBLISH /0.celery.pidbox x", "SUBSCRIBE /0.celeryev", "ACL LIST",
     "SET other 1", "EVAL return(redis.call('RPOP','rerankq.bulk')) 0", "SCRIPT FLUSH", "MONITOR"],
    ids=str,
)  # fmt: skip
def test_a_producer_may_not(guarded: GuardedRedis, command: str):
    with (
        redis.Redis.from_url(guarded.url_of("producer")) as client,
        pytest.raises(redis.ResponseError) as refused,
    ):
        client.execute_command(*command.split())
    assert refused_for_want_of_rights(refused.value)


@pytest.mark.parametrize(
    "command",
    ["FLUSHALL", "KEYS *", "CONFIG GET *", "SHUTDOWN", "ACL LIST", "SET other 1", "SCRIPT FLUSH", "MONITOR",
     "SUBSCRIBE others", "REPLICAOF NO ONE", "CLIENT KILL ID 1"],
    ids=str,
)  # fmt: skip
def test_a_worker_may_not(guarded: GuardedRedis, command: str):
    with (
        redis.Redis.from_url(guarded.url_of("worker")) as client,
        pytest.raises(redis.ResponseError) as refused,
    ):
        client.execute_command(*command.split())
    assert refused_for_want_of_rights(refused.value)


def test_nobody_enters_without_a_user(guarded: GuardedRedis):
    once = Retry(NoBackoff(), 0)  # or redis-py tries for 3 s
    with guarded.client(retry=once) as client, pytest.raises(redis.AuthenticationError):
        client.get("x")
