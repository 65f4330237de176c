"""A Redis that refuses is told by what it said, and with what helps."""

from typing import Any

import pytest
from redis import Redis, exceptions

from rerankq.contract.refusals import refusal_in
from tests.redis_server import RedisServer

SAID = {
    "-NOPERM this user has no permissions to run the 'get' command": ("NOPERM", "users.acl"),
    "-OOM command not allowed when used memory > 'maxmemory'.": ("OOM", "`maxmemory` gives it more"),
    "-READONLY You can't write against a read only replica.": ("READONLY", "name the primary"),
    "-LOADING Redis is loading the dataset in memory": ("LOADING", "try again in a moment"),
    "-WRONGPASS invalid username-password pair": ("wrong user or password, or none", "RERANKQ_BROKER_URL"),
    "-NOAUTH Authentication required.": ("wrong user or password, or none", "RERANKQ_BROKER_URL"),
    "-MISCONF Redis is configured to save RDB snapshots": ("MISCONF", "free space"),
    "-NOREPLICAS Not enough good replicas to write.": ("NOREPLICAS", "min-replicas-to-write"),
    "-MASTERDOWN Link with MASTER is down": ("MASTERDOWN", "lost its primary"),
    "-BUSY Redis is busy running a script.": ("BUSY", "SCRIPT KILL"),
    "-MOVED 3999 127.0.0.1:6381": ("MOVED", "take one Redis"),
    "-CROSSSLOT Keys in request don't hash to the same slot": ("CROSSSLOT", "take one Redis"),
    "-WRONGTYPE Operation against a key holding the wrong kind of value": ("WRONGTYPE", "delete it"),
    "-ERR DB index is out of range": ("no such database", "0 to 15"),
    "-ERR max number of clients reached": ("too many clients", "maxclients"),
    "-ERR unknown command 'HELLO', with args beginning with: 'a user text'": (
        "a command it does not know",
        "6.2",
    ),
    "-SOMETHING new with 'a user text'": ("SOMETHING", "RERANKQ_BROKER_URL"),
    "-ERR Error running script: The user executing the script can't run this command": (
        "NOPERM",
        "users.acl",
    ),
    "-ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -OOM command not allowed": (
        "OOM",
        "`maxmemory` gives it more",
    ),
    "-ERR odd 'A USER TEXT' a user text": ("ResponseError", "RERANKQ_BROKER_URL"),
}


@pytest.mark.parametrize(("reply", "told"), SAID.items(), ids=[reply[:12] for reply in SAID])
def test_what_redis_refuses_is_told_by_its_word_and_with_its_cure(reply: str, told: tuple[str, str]) -> None:
    refusal = refusal_in(_raised(reply))

    assert refusal is not None
    assert refusal.what == told[0]
    assert told[1] in refusal.cure
    assert "user text" not in str(refusal).lower()


@pytest.mark.parametrize("error", [exceptions.ConnectionError("refused"), exceptions.TimeoutError("late")])
def test_a_redis_that_does_not_answer_refuses_nothing(error: Exception) -> None:
    assert refusal_in(error) is None


def test_a_refusal_inside_a_script_is_known_by_its_word(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        redis.set("text", "text")
        with pytest.raises(exceptions.ResponseError) as caught:
            redis.eval("return redis.call('HGET', KEYS[1], 'a')", 1, "text")

    assert refusal_in(caught.value)[0] == "WRONGTYPE"  # pyright: ignore[reportOptionalSubscript]


def _raised(reply: str) -> Exception:
    """What redis-py makes of it."""
    connection: Any = Redis().connection_pool.make_connection()
    return connection._parser.parse_error(reply.removeprefix("-"))
