"""The master dies and a sentinel promotes its replica."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rerankq import AsyncRerankClient, BrokerUnavailable, RerankClient
from tests.faults.conftest import documents
from tests.redis_addresses import GuardedRedis
from tests.service import Service

FAILS_OVER_WITHIN_SECONDS = 60.0


@pytest.fixture
def guarded(tmp_path: Path) -> GuardedRedis:
    return GuardedRedis(tmp_path)


@pytest.fixture
def service(guarded: GuardedRedis) -> Iterator[Service]:
    with Service(engine="tests.witness:engine?batch_ms=20&pair_ms=2", redis=guarded) as running:
        yield running


def test_replicated_jobs_are_answered_after_a_failover(service: Service, guarded: GuardedRedis) -> None:
    """What reached the replica is answered; what did not is lost, as docs/operations.md says of any failover."""
    client = service.client
    jobs = [client.submit(f"query {number}", documents(8), lane="bulk") for number in range(40)]
    jobs[0].result(30)
    assert guarded.is_replicated()

    guarded.kill()

    ask_until_answered(client)
    assert [job.result(60).scored for job in jobs] == [8] * 40
    assert asyncio.run(ask_asynchronously(guarded.url)) == 8


def ask_until_answered(client: RerankClient) -> None:
    """Meanwhile callers are told that Redis is away, soon and by name."""
    give_up_at = time.monotonic() + FAILS_OVER_WITHIN_SECONDS
    while True:
        try:
            client.rerank("after the failover", documents(8), timeout=10)
            return
        except BrokerUnavailable:
            assert time.monotonic() < give_up_at, "no job was taken after the failover"
            time.sleep(0.2)


async def ask_asynchronously(url: str) -> int:
    async with AsyncRerankClient(url) as client:
        return (await client.rerank("by another loop", documents(8))).scored
