"""Submitting: what is accepted is on the lane once, what is refused leaves nothing behind."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from rerankq import (
    AsyncRerankClient,
    BrokerUnavailable,
    Cancelled,
    InvalidRequest,
    JobUnknown,
    NoWorkers,
    QueueFull,
    RerankClient,
    ResultTimeout,
)
from rerankq.contract import keys, wire
from rerankq.settings import ClientSettings
from rerankq.testing import FakeRerankClient
from tests.redis_server import RedisServer


@pytest.fixture(autouse=True)
def _empty_redis(redis_server: RedisServer) -> None:
    redis_server.client().flushall()


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[RerankClient]:
    with RerankClient(redis_server.url) as made:
        yield made


def queued(redis_server: RedisServer, lane: str = "interactive") -> int:
    return redis_server.client().llen(f"rerankq.{lane}")


def test_a_submitted_job_is_queued_and_known(client: RerankClient, redis_server: RedisServer) -> None:
    job = client.submit("q", ["a", "b"])

    status = job.status()
    assert (status.state, status.scored, status.total, status.lane) == ("queued", 0, 2, "interactive")
    assert not job.done()
    assert queued(redis_server) == 1


def test_what_was_sent_with_a_priority_is_counted_before_it_is_moved(
    client: RerankClient, redis_server: RedisServer
) -> None:
    with redis_server.client() as redis:
        for key in ("rerankq.bulk", "rerankq.bulk\x06\x163", "rerankq.bulk:9"):
            redis.lpush(key, "{}")

    assert client.lanes() == {"interactive": 0, "bulk": 3}


def test_the_same_job_twice_is_on_the_lane_once(client: RerankClient, redis_server: RedisServer) -> None:
    client.submit("q", ["a"], job_id="order-7")
    client.submit("q", ["a"], job_id="order-7", deadline=time.time() + 60)

    assert queued(redis_server) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"documents": ["something else"]},
        {"instruction": "find the answer"},
        {"score_threshold": 0.5},
        {"long_documents": "windows"},
    ],
    ids=str,
)
def test_an_id_that_belongs_to_another_request_is_refused(
    client: RerankClient, redis_server: RedisServer, other: dict[str, Any]
) -> None:
    client.submit("q", ["a"], job_id="order-7")

    with pytest.raises(InvalidRequest, match="order-7 belongs to another request"):
        client.submit(**{"query": "q", "documents": ["a"], "job_id": "order-7", **other})
    assert queued(redis_server) == 1


@pytest.mark.parametrize("job_id", ["", "a b", "x" * 129, "naïve", "a\nb", 7, b"x"])
def test_an_id_that_cannot_be_one_is_refused(client: RerankClient, job_id: Any) -> None:
    with pytest.raises(InvalidRequest, match="job_id: expected 1 to 128"):
        client.submit("q", ["a"], job_id=job_id)


@pytest.mark.parametrize("job_id", [None, 7, b"x", "\ud800", "a\nb", ""])
def test_an_id_that_nobody_can_have_is_refused_when_it_is_asked_for(
    job_id: Any, client: RerankClient
) -> None:
    for each in (
        client,
        AsyncRerankClient(client.settings.broker_url.get_secret_value()),
        FakeRerankClient(),
    ):
        with pytest.raises(InvalidRequest, match="job_id: expected "):
            each.job(job_id)


def test_a_submission_that_was_cut_off_before_publishing_is_published_by_the_resend(
    client: RerankClient, redis_server: RedisServer
) -> None:
    client.submit("q", ["a"], job_id="order-7")
    redis = redis_server.client()
    redis.delete("rerankq.interactive")
    redis.hdel(keys.job("order-7"), "published")

    impatient = ClientSettings(broker_url=redis_server.url, redis_timeout_seconds=1.0)
    with RerankClient(settings=impatient) as resending:
        resending.submit("q", ["a"], job_id="order-7")

    assert queued(redis_server) == 1


def test_an_unknown_job_is_unknown_and_not_pending_for_ever(client: RerankClient) -> None:
    assert client.job("nobody").status().state == "unknown"
    with pytest.raises(JobUnknown, match="job nobody is not known"):
        client.job("nobody").result(timeout=5)


def test_a_wait_that_runs_out_says_so_and_leaves_the_job(
    client: RerankClient, redis_server: RedisServer
) -> None:
    job = client.submit("q", ["a"])

    with pytest.raises(ResultTimeout, match=f"rerankq status {job.job_id}"):
        job.result(timeout=0.1)
    assert queued(redis_server) == 1
    assert job.status().state == "queued"


def test_whoever_waits_while_another_thread_closes_the_client_is_answered_and_leaves_no_connection(
    redis_server: RedisServer,
) -> None:
    client = RerankClient(f"{redis_server.url}?client_name=closing")
    job = client.submit("q", ["a"])
    with ThreadPoolExecutor() as threads:
        ending = threads.submit(job.result, timeout=30)
        while not redis_server.client().pubsub_numsub(keys.result(job.job_id))[0][1]:
            time.sleep(0.01)

        client.close()
        RerankClient(redis_server.url).job(job.job_id).cancel()

        with pytest.raises(Cancelled):
            ending.result()
    while any(each["name"] == "closing" for each in redis_server.client().client_list()):
        time.sleep(0.01)


def test_a_client_serves_more_threads_than_redis_py_has_connections(
    client: RerankClient, redis_server: RedisServer
) -> None:
    job = client.submit("q", ["a"])
    with ThreadPoolExecutor(120) as threads:
        endings = [threads.submit(job.result, timeout=30) for _ in range(120)]
        while redis_server.client().pubsub_numsub(keys.result(job.job_id))[0][1] < len(endings):
            assert not any(ending.done() for ending in endings)
            time.sleep(0.01)

        job.cancel()

        assert all(isinstance(ending.exception(), Cancelled) for ending in endings)


def test_rerank_refuses_where_no_worker_is_alive(client: RerankClient, redis_server: RedisServer) -> None:
    with pytest.raises(NoWorkers, match="rerankq-worker"):
        client.rerank("q", ["a"])
    assert queued(redis_server) == 0


def test_a_full_lane_refuses_with_a_time_to_come_back(redis_server: RedisServer) -> None:
    settings = ClientSettings(broker_url=redis_server.url, max_interactive_jobs=2)
    with RerankClient(settings=settings) as client:
        client.submit("q", ["a"])
        client.submit("q", ["b"])

        with pytest.raises(QueueFull, match="2 jobs wait in the interactive lane") as caught:
            client.submit("q", ["c"], job_id="refused")
        assert caught.value.retry_after_seconds >= 1
        assert client.job("refused").status().state == "unknown"
        client.submit("q", ["d"], lane="bulk")


def test_memory_refuses_bulk_before_interactive(redis_server: RedisServer) -> None:
    redis = redis_server.client()
    limit = redis.info("memory")["used_memory"]
    settings = ClientSettings(
        broker_url=redis_server.url,
        max_broker_bytes=int(limit / 0.7),
    )
    with RerankClient(settings=settings) as client:
        with pytest.raises(QueueFull, match="memory is"):
            client.submit("q", ["a"], lane="bulk")
        client.submit("q", ["a"])


def test_a_large_request_travels_as_a_claim_check(client: RerankClient, redis_server: RedisServer) -> None:
    job = client.submit("q", [f"{number} " * 30_000 for number in range(5)])

    redis = redis_server.client()
    body = wire.decode(wire.decompress(redis.get(keys.payload(job.job_id))))
    assert len(body["documents"]) == 5
    assert redis.ttl(keys.payload(job.job_id)) > 0
    assert len(redis.lindex("rerankq.interactive", 0)) < 3_000


def test_no_key_is_left_without_a_time_to_live(client: RerankClient, redis_server: RedisServer) -> None:
    client.submit("q", ["a"]).cancel()
    client.submit("q", ["a " * 100_000], lane="bulk")

    redis = redis_server.client()
    eternal = {key.decode() for key in redis.scan_iter() if redis.ttl(key) == -1}
    assert {key for key in eternal if key.startswith("rerankq:")} == set()


@pytest.mark.parametrize("documents", ["a", None, {"a": "b"}, {"a", "b"}, 3])
def test_documents_that_are_no_list_are_refused(
    client: RerankClient, redis_server: RedisServer, documents: Any
) -> None:
    with pytest.raises(InvalidRequest, match="documents: expected a list of strings"):
        client.submit("q", documents)
    assert queued(redis_server) == 0


def test_asyncio_refuses_what_is_no_list_as_well(redis_server: RedisServer) -> None:
    async def ask() -> None:
        async with AsyncRerankClient(redis_server.url) as client:
            await client.rerank("q", {"a": "b"})

    with pytest.raises(InvalidRequest, match="got dict; put them in a list"):
        asyncio.run(ask())


@pytest.mark.usefixtures("_as_patient_as_a_web_request")
def test_a_redis_that_is_away_refuses_within_its_timeout() -> None:
    with RedisServer() as server, RerankClient(server.url) as client:
        client.submit("q", ["a"])
        server.freeze()

        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"^Redis \(.*\) did not answer while submitting"):
            client.submit("q", ["b"])
        assert (
            time.monotonic() - began < 5
        )  # a hang would be for ever; the exact bound is a benchmark's business
        with pytest.raises(BrokerUnavailable):
            client.job("x").result(timeout=0.2)
        server.thaw()
        client.submit("q", ["b"])


def test_no_redis_at_all_is_broker_unavailable() -> None:
    with RerankClient("redis://127.0.0.1:1/0") as client, pytest.raises(BrokerUnavailable):
        client.submit("q", ["a"])


@pytest.mark.usefixtures("_as_patient_as_a_web_request")
def test_asyncio_begins_to_wait_while_redis_is_away() -> None:
    async def ask(server: RedisServer, job_id: str) -> str:
        async with AsyncRerankClient(server.url) as client:
            server.freeze()
            waiting = asyncio.create_task(client.job(job_id).result(timeout=30))
            await asyncio.sleep(1)  # longer than a call may take
            server.thaw()
            with server.client() as redis:
                redis.set(keys.result(job_id), answer)
            with pytest.raises(InvalidRequest) as told:
                await waiting
        return str(told.value)

    error = {"exc_type": "InvalidRequest", "exc_message": ["why", {}], "exc_module": "m"}
    answer = wire.encode({"status": "FAILURE", "result": error})
    with RedisServer() as server, RerankClient(server.url) as client:
        job = client.submit("q", ["a"], lane="bulk")

        assert asyncio.run(ask(server, job.job_id)) == "why"


def test_a_job_that_names_a_model_lies_on_that_models_lane_and_its_record_says_so(
    client: RerankClient, redis_server: RedisServer
) -> None:
    queue = keys.queue_of("bulk", "org/name@1")
    job = client.submit("q", ["a"], lane="bulk", model="org/name@1")

    with redis_server.client() as redis:
        assert (redis.llen(queue), queued(redis_server, "bulk")) == (1, 0)
        assert redis.hget(keys.job(job.job_id), "queue") == queue.encode()
        assert redis.zrange(keys.MODELS, 0, -1) == [b"org/name@1"]
        redis.delete(keys.open_jobs(queue))
        assert job.status().state == "queued"
        assert redis.zcard(keys.open_jobs(queue)) == 1  # it would be missed again
        redis.delete(keys.job(job.job_id))
        assert job.status().lane == "bulk"  # found by the index of its model's lane


def test_an_id_without_a_trace_is_queued_while_a_strangers_job_waits_for_a_model(
    client: RerankClient, redis_server: RedisServer
) -> None:
    client.submit("q", ["a"], model="org/name").cancel()
    assert client.job("anybodys").status().state == "unknown"

    redis_server.client().lpush(keys.queue_of("bulk", "org/name"), "{}")

    assert client.job("anybodys").status().state == "queued"


def test_lanes_are_counted_by_model_and_all_together(client: RerankClient) -> None:
    for model in (None, "a", "a", "b"):
        client.submit("q", ["a"], model=model)

    assert client.lanes() == {"interactive": 4, "bulk": 0}
    assert client.model_lanes() == {
        ("interactive", None): 1,
        ("bulk", None): 0,
        ("interactive", "a"): 2,
        ("interactive", "b"): 1,
    }


def test_a_pack_names_one_model(client: RerankClient) -> None:
    requests = [client.request("q", ["a"], model=model) for model in (None, "a")]

    with pytest.raises(
        InvalidRequest, match="requests of a pack to name the same one, got 2; send a pack for"
    ):
        client.send_pack(requests)
