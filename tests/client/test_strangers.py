"""Jobs of any other Celery client leave no record until a worker takes them: by their id they are waited for."""

import asyncio
import json
from collections.abc import Iterator
from uuid import uuid4

import pytest

from rerankq import AsyncRerankClient, JobUnknown, Ranking, RerankClient, ResultTimeout
from rerankq.contract.transport.publishing import task_message
from tests.faults.conftest import documents
from tests.redis_server import RedisServer
from tests.service import Service


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(engine="rerankq_worker.doubles:slow?batch_ms=20&pair_ms=5") as running:
        yield running


def push_by_hand(redis_server: RedisServer, lane: str = "interactive", list_suffix: str = "") -> str:
    """Put a message on a lane as any Celery client does; the job's id."""
    job_id, fields = str(uuid4()), b'{"query": "q", "documents": ["a", "b"]}'
    message = task_message("rerankq.rerank", job_id, lane, fields, {}, summary="", compress=False)
    with redis_server.client() as redis:
        redis.lpush(
            f"rerankq.{lane}{list_suffix}", json.dumps(message | {"content-type": "application/json"})
        )
    return job_id


@pytest.mark.parametrize("suffix", ["", "\x06\x169"], ids=["plain", "with a priority"])
def test_a_strangers_job_is_queued_then_running_and_waited_for(service: Service, suffix: str) -> None:
    client = service.client
    ahead = client.submit("ahead", documents(200), lane="bulk")
    service.wait_until(lambda: ahead.status().state == "running")

    job = client.job(push_by_hand(service.redis, "bulk", suffix))

    assert job.status().state == "queued"
    with pytest.raises(ResultTimeout):
        job.result(timeout=0.2)
    assert isinstance(job.result(timeout=30), Ranking)
    assert job.status().state == "done"


def test_asyncio_waits_for_a_strangers_job(service: Service) -> None:
    async def ask() -> int:
        async with AsyncRerankClient(service.redis.url) as client:
            return (await client.job(push_by_hand(service.redis)).result(30)).scored

    service.client.submit("ahead", documents(40))

    assert asyncio.run(ask()) == 2


def test_an_id_that_nobody_used_is_unknown_as_soon_as_that_can_be_known(service: Service) -> None:
    client = service.client
    client.submit("ahead", documents(150))
    client.submit("ours", ["a"])

    service.wait_until(lambda: client.status("nobody").state == "unknown")  # others' last is acknowledged
    push_by_hand(service.redis)
    assert client.status("nobody").state == "queued"
    assert client.status("nobody", is_ours=True).state == "unknown"
    with pytest.raises(JobUnknown):
        client.job("nobody").result(timeout=30)


def test_what_was_sent_from_here_and_forgotten_is_sent_again_though_strangers_wait(
    redis_server: RedisServer,
) -> None:
    with RerankClient(redis_server.url) as client, redis_server.client() as redis:
        job = client.submit("q", ["a"])
        redis.flushall()
        push_by_hand(redis_server)

        with pytest.raises(ResultTimeout):
            job.result(timeout=0.5)
        assert redis.llen("rerankq.interactive") == 2
