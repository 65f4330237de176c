"""What an application does that asks us: run by its own Python, with nothing of the tests' at hand."""

import asyncio
import os
import time

from rerankq import (
    AsyncRerankClient,
    BrokerUnavailable,
    DeadlineExceeded,
    InvalidRequest,
    JobUnknown,
    NoWorkers,
    QueueFull,
    RerankClient,
)
from rerankq.admission import Room
from rerankq.bulk import rerank_many

FULL, NOBODY = os.environ["FULL_REDIS"], "redis://127.0.0.1:1/0"


def caught(call, *arguments, **named):
    """What a call raises."""
    try:
        return call(*arguments, **named)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        return error


def asks(client):
    assert client.rerank("panda", ["a", "b"], timeout=20).scored == 2
    job = client.submit("panda", ["a"], lane="bulk", job_id="mine")
    assert client.submit("panda", ["a"], lane="bulk", job_id="mine").result(20) == job.result(20)
    assert (job.status().state, client.lanes()) == ("done", {"interactive": 0, "bulk": 0})
    assert {lane for worker in client.workers() for lane in worker.lanes} == {"interactive", "bulk"}
    rows = [{"query": "panda", "documents": ["a", "b"]}] * 3
    assert [answer.scored for _, answer in rerank_many(rows, client)] == [2, 2, 2]


def lets_in(*_):
    """Admission, where there was room a moment ago."""
    yield from ()
    return Room()


def is_told(client):
    assert isinstance(caught(client.rerank, "", ["a"]), InvalidRequest)
    assert isinstance(caught(client.job("nobody's").result, 1), JobUnknown)
    late = caught(client.rerank, "panda", ["a"], timeout=20, deadline=time.time() - 1)
    assert isinstance(late, DeadlineExceeded), late
    with RerankClient(NOBODY) as lonely:
        assert isinstance(caught(lonely.submit, "panda", ["a"]), BrokerUnavailable)
    with RerankClient(FULL) as stuffed:
        assert isinstance(caught(stuffed.rerank, "panda", ["a"]), NoWorkers)
        full = caught(stuffed.submit, "panda", ["a"])
        assert isinstance(full, QueueFull), repr(full)
        stuffed._admission.admit = lets_in  # full a moment after the look
        full = caught(stuffed.submit, "panda", ["a"])
        assert isinstance(full, QueueFull), repr(full)


async def asks_from_a_loop():
    async with AsyncRerankClient() as client:
        asked = [client.rerank("panda", ["a"] * count, timeout=20) for count in range(1, 6)]
        assert [ranking.scored for ranking in await asyncio.gather(*asked)] == [1, 2, 3, 4, 5]
        job = await client.submit("panda", ["a"])
        assert (await job.result(20), (await job.status()).state)[1] == "done"
        assert isinstance(await _caught(client.rerank("", ["a"])), InvalidRequest)
    async with AsyncRerankClient(NOBODY) as lonely:
        assert isinstance(await _caught(lonely.rerank("panda", ["a"], timeout=0.2)), BrokerUnavailable)


async def _caught(asked):
    try:
        return await asked
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        return error


if __name__ == "__main__":
    with RerankClient() as client:
        asks(client)
        is_told(client)
    asyncio.run(asks_from_a_loop())
