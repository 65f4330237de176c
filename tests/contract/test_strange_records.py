"""Records in Redis that somebody else has written over are read as far as they go, and raise nothing by surprise."""

from collections.abc import Iterator

import numpy as np
import pytest
from redis import Redis

from rerankq import BrokerUnavailable, JobUnknown, RerankClient
from rerankq.contract import keys
from rerankq.contract.transport.dead_letters import DeadLetters
from rerankq_worker.job.store import JobStore
from tests.client.test_answers import STRANGE_RECORD
from tests.redis_server import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(server: RedisServer) -> "Iterator[Redis]":
    with server.client() as redis:
        redis.flushall()
        yield redis


@pytest.fixture
def store(redis: "Redis") -> JobStore:
    return JobStore(redis, max_payload_bytes=1_000_000, result_ttl_seconds=60)


def test_a_record_of_another_type_is_no_record(server: RedisServer, redis: "Redis") -> None:
    redis.set(keys.job("j"), "a string")
    with RerankClient(server.url) as client:
        assert client.status("j").state == "unknown"
        with pytest.raises(JobUnknown):
            client.job("j").result(timeout=1)
        redis.lpush(keys.cancel("j"), "a list")
        assert client.submit("q", ["a"], job_id="j").status().state == "queued"


def test_a_lane_of_another_type_is_refused_by_redis_and_not_away(server: RedisServer, redis: "Redis") -> None:
    redis.set("rerankq.bulk", "a string")
    with RerankClient(server.url) as client, pytest.raises(BrokerUnavailable, match=r"refused .*: WRONGTYPE"):
        client.submit("q", ["a"], lane="bulk")


def test_a_worker_runs_a_job_whose_record_is_strange(store: JobStore, redis: "Redis") -> None:
    redis.hset(keys.job("fields"), mapping=STRANGE_RECORD)
    redis.set(keys.job("type"), "a string")

    known = [store.look_up(job_id) for job_id in ("fields", "type")]

    assert [(k.submitted, k.is_cancelled) for k in known] == [(None, False)] * 2
    assert [store.why_stop(job_id, attempt=1) for job_id in ("fields", "type")] == [None, None]


def test_a_record_that_cannot_be_written_costs_no_other_job_its_own(store: JobStore, redis: "Redis") -> None:
    redis.set(keys.job("type"), "a string")
    store.save_checkpoint("type", [], np.zeros(0, dtype=np.float32), (), scored=0)
    store.finish("type")

    store.finish("next")

    assert redis.hexists(keys.job("next"), "answered")


def test_a_dead_letter_with_strange_fields_is_listed_as_far_as_it_can_be_read(redis: "Redis") -> None:
    redis.zadd(keys.DEAD, {"bare": 2, "other": 1, b"\xff": 0})
    redis.hset(keys.dead_letter("bare"), mapping={"attempts": "\xff", "reason": b"\xff"})
    redis.set(keys.dead_letter("other"), "a string")

    (letter,) = DeadLetters(redis).list()

    assert (letter.id, letter.attempts, letter.task) == ("bare", 0, "unknown")
