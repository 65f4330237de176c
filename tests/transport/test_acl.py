"""The Redis users of deploy/redis/users.acl: each can do its work, and no more."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery

from rerankq.client import RerankClient
from rerankq.contract import transport
from rerankq.contract.dead_letters import DeadLetters
from tests.redis_server import RedisServer
from tests.transport.app import make_app
from tests.transport.worker_process import REPOSITORY, WorkerProcess

PASSWORDS = {"PRODUCER_PASSWORD": "p", "WORKER_PASSWORD": "w"}
LANE = "rerankq.interactive"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[RedisServer]:
    rules = (REPOSITORY / "deploy/redis/users.acl").read_text()
    for placeholder, password in PASSWORDS.items():
        rules = rules.replace(placeholder, password)
    acl_file = tmp_path / "users.acl"
    acl_file.write_text(rules)
    with RedisServer(aclfile=str(acl_file)) as running:
        yield running


def url_of(server: RedisServer, user: str) -> str:
    return f"redis://{user}:{user[0]}@127.0.0.1:{server.port}/0"


@pytest.fixture
def producer_app(guarded: RedisServer) -> Iterator[Celery]:
    transport.install()
    made = make_app(url_of(guarded, "producer"))
    made.conf.task_default_queue = LANE
    yield made
    made.close()
    gc.collect()  # promises that a failed assertion keeps alive unsubscribe while there is a server


def test_a_producer_and_a_worker_do_all_their_work(
    guarded: RedisServer, producer_app: Celery, wait_until: Callable[..., None]
):
    with (
        WorkerProcess(guarded, url=url_of(guarded, "worker"), queues=f"{LANE},rerankq.bulk"),
        redis.Redis.from_url(url_of(guarded, "worker")) as as_worker,
        make_app(url_of(guarded, "worker")) as worker_app,
    ):
        assert producer_app.send_task("note", (1,)).get(timeout=10) == 1
        poison = producer_app.send_task("kill_child")
        with pytest.raises(Exception, match="given up after 3 attempts"):
            poison.get(timeout=20)
        wait_until(DeadLetters(as_worker).count)
        assert [letter.id for letter in DeadLetters(as_worker).list()] == [poison.id]
        assert DeadLetters(as_worker).drop(poison.id)
        assert worker_app.control.ping(timeout=2)


def test_a_producer_submits_asks_and_cancels(guarded: RedisServer):
    with RerankClient(url_of(guarded, "producer")) as client:
        job = client.submit("query", ["one", "two"])
        assert job.status()
        job.cancel()


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
def test_a_producer_may_not(guarded: RedisServer, command: str):
    with (
        redis.Redis.from_url(url_of(guarded, "producer")) as client,
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
def test_a_worker_may_not(guarded: RedisServer, command: str):
    with (
        redis.Redis.from_url(url_of(guarded, "worker")) as client,
        pytest.raises(redis.ResponseError) as refused,
    ):
        client.execute_command(*command.split())
    assert refused_for_want_of_rights(refused.value)


def test_nobody_enters_without_a_user(guarded: RedisServer):
    with guarded.client() as client, pytest.raises(redis.AuthenticationError):
        client.get("x")
