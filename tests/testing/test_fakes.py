"""The fakes against the real clients: what is their own, since all that is not Redis is the real clients' code."""

import asyncio
import inspect
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from rerankq import (
    AsyncRerankClient,
    Document,
    JobFailed,
    QueueFull,
    RerankClient,
    RerankError,
    ResultTimeout,
)
from rerankq.contract.messages import Ranking
from rerankq.settings import ClientSettings
from rerankq.testing import AsyncFakeRerankClient, FakeRerankClient
from tests.service import Service

LIMITS: dict[str, Any] = {"max_documents": 4, "max_document_characters": 200, "max_payload_bytes": 2_000}
DOCUMENTS = ["a bear", "all about the panda", "a bird"]


@pytest.fixture(scope="module")
def service(idle_service: Service) -> Service:
    return idle_service


async def said(value: Any) -> Any:
    """What a client says, by whichever of the two ways it says it."""
    return await value if inspect.isawaitable(value) else value


async def twice(client: Any, *requests: list[str], job_id: str) -> Any:
    for documents in requests:
        job = await said(client.submit("panda", documents, job_id=job_id))
    return await said(job.result(timeout=20))


async def standing(client: Any, job_id: str, **options: Any) -> Any:
    job = await said(client.submit("panda", DOCUMENTS, job_id=job_id, lane="bulk", **options))
    try:
        await said(job.result(timeout=20))
    except RerankError:
        await said(job.cancel())  # what has ended stays so
    status = await said(job.status())
    done, progress = await said(job.done()), await said(job.progress())
    return status.state, status.lane, status.total, done, progress, status.error and status.error[:20]


async def called_off(client: Any) -> Any:
    await said(client.job("nobody's").cancel())
    return await said(client.job("nobody's").result(timeout=5))


async def many(client: Any) -> Any:
    if not hasattr(client, "rerank_many"):  # for threads there is `rerankq.bulk`
        return None
    asked = [
        ("panda", DOCUMENTS),
        {"query": "", "documents": ["a"]},
        client.request("bear", DOCUMENTS, lane="bulk"),
        7,
    ]
    return [seen(answer) async for _, answer in client.rerank_many(asked, top_n=3)]


async def in_a_pack(client: Any, count: int) -> Any:
    requests = [client.request(f"panda {size}", DOCUMENTS[:size]) for size in range(1, count + 1)]
    pack = await said(client.send_pack(requests))
    alone = await outcome(lambda: client.job(pack.job_id).result(20))
    return [seen(answer) for answer in await said(pack.answers(20))], alone


CALLS: dict[str, Callable[[Any], Any]] = {
    "a ranking": lambda c: c.rerank("panda", DOCUMENTS, timeout=20),
    "the best two": lambda c: c.rerank("panda", DOCUMENTS, top_n=2, raw_scores=True),
    "names, and texts back": lambda c: c.rerank(
        "panda", [Document(text="a bear", id="x"), {"text": "a bird", "id": 7}], return_documents=True
    ),
    "equal documents": lambda c: c.rerank("panda", ["a bear", "a bear", "a bird"]),
    "to be read whole": lambda c: c.rerank(
        "panda", ["a", "a bear in the woods"], max_tokens_per_doc=2, truncation=False
    ),
    "all but what is too low": lambda c: c.rerank("panda", DOCUMENTS, score_threshold=-1e9, raw_scores=True),
    "nothing is good enough": lambda c: c.rerank("panda", DOCUMENTS, score_threshold=1e9),
    "in windows": lambda c: c.rerank("panda", DOCUMENTS, max_windows_per_doc=2),
    "an empty query": lambda c: c.rerank("", DOCUMENTS),
    "a large message": lambda c: c.submit("panda", ["大" * 200] * 4),
    "no time at all": lambda c: c.rerank("panda", DOCUMENTS, timeout=float("nan")),
    "too late": lambda c: c.rerank("panda", DOCUMENTS, deadline=time.time() - 1),
    "too late for a part": lambda c: c.rerank(
        "panda", DOCUMENTS, deadline=time.time() - 1, on_deadline="partial"
    ),
    "the same job twice": lambda c: twice(c, DOCUMENTS, DOCUMENTS, job_id=f"twice-{type(c).__name__}"),
    "another's id": lambda c: twice(c, DOCUMENTS, DOCUMENTS[:1], job_id=f"other-{type(c).__name__}"),
    "a job that never was": lambda c: c.job("never").result(timeout=5),
    "called off before it was": called_off,
    "where one stands": lambda c: standing(c, f"stands-{type(c).__name__}"),
    "where one stands that came late": lambda c: standing(
        c, f"late-{type(c).__name__}", deadline=time.time() - 1
    ),
    "where none stands": lambda c: c.job("never").status(),
    "a pack": lambda c: in_a_pack(c, 3),
    "many": many,
    "the lanes": lambda c: c.lanes(),
}


async def outcome(call: Callable[[], Any]) -> Any:
    try:
        return seen(await said(call()))
    except RerankError as error:
        return seen(error)


def seen(value: Any) -> Any:
    """What may be expected to be the same: everything but names, scores and times."""
    if isinstance(value, RerankError):
        message = re.sub(r"[0-9a-f]{32}|\w+-\w+Client", "JOB", str(value))
        return type(value).__name__, message, sorted(value.details)
    if not isinstance(value, Ranking):
        return value
    results = sorted(value.results, key=lambda result: result.index)
    return {
        "fields": sorted(value.model_dump()),
        "counted": (value.scored, value.total, value.complete, len(value)),
        "usage": (value.usage.pairs, value.usage.duplicate_pairs, value.usage.truncated_documents),
        "results": [
            (type(r.relevance_score), r.id, r.document, r.truncated)
            for r in results
            if len(results) == value.total
        ],
    }


async def of(client: Any, call: Callable[[Any], Any]) -> Any:
    try:
        return await outcome(lambda: call(client))
    finally:
        await said(client.close())


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_fake_answers_and_refuses_as_the_real_one(call: Callable[[Any], Any], service: Service) -> None:
    settings = ClientSettings(broker_url=service.redis.url, redis_timeout_seconds=5, **LIMITS)

    real = asyncio.run(of(RerankClient(settings=settings), call))
    assert asyncio.run(of(FakeRerankClient(settings=settings), call)) == real

    real = asyncio.run(of(AsyncRerankClient(settings=settings), call))
    assert asyncio.run(of(AsyncFakeRerankClient(settings=settings), call)) == real


CHOSEN = {
    "words": ("What is a panda?", ["Mars is a planet.", "The panda is a bear.", "Bamboo."], 1),
    "Chinese": (
        "中国的首都是哪里？",
        ["上海是中国最大的城市和经济中心。", "杭州是浙江省省会。", "北京是中国的政治中心和首都。"],
        2,
    ),
    "one character": ("猫", ["狗是动物。", "大熊猫吃竹子。"], 1),
    "Thai": ("แพนด้า", ["นกกินปลา", "หมีแพนด้ากินไผ่"], 1),
    "case and width": ("ＰＡＮＤＡ", ["bird", "panda"], 1),
    "the shorter of two": ("panda", ["the panda of the north and of the south", "the panda"], 1),
    "nothing shared": ("zebra", ["a", "b"], 0),
    "no words at all": ("!?", ["", "…"], 0),
}


@pytest.mark.parametrize(("query", "documents", "best"), CHOSEN.values(), ids=CHOSEN)
def test_the_document_that_shares_most_with_the_query_comes_first(
    query: str, documents: list[str], best: int
) -> None:
    first, again = (FakeRerankClient().rerank(query, documents) for _ in range(2))

    assert first[0].index == best
    assert [result.logit for result in first] == [result.logit for result in again]


def test_a_failure_is_met_where_it_would_come_from() -> None:
    client = FakeRerankClient()
    for error in (QueueFull("full", {"retry_after_seconds": 3}), JobFailed("it broke", {"dead": True})):
        client.fail_next(error)

    with pytest.raises(QueueFull) as refused:
        client.submit("panda", ["a"])
    job = client.submit("panda", ["b"])
    with pytest.raises(JobFailed, match="it broke"):
        job.result()

    assert refused.value.retry_after_seconds == 3
    assert job.status().state == "dead"
    assert client.rerank("panda", ["c"]).complete
    assert [call.texts for call in client.calls] == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("error", [QueueFull, ValueError("x"), "full"])
def test_a_failure_that_no_service_has_is_refused_at_once(error: Any) -> None:
    with pytest.raises(TypeError, match=r"say QueueFull\('full'\)"):
        FakeRerankClient().fail_next(error)


def test_a_job_that_redis_lost_is_answered_when_it_is_sent_again() -> None:
    client = FakeRerankClient("redis://127.0.0.1:1/0")
    client.fail_next(JobFailed("lost", {"where": "broker"}))

    with pytest.raises(JobFailed):
        client.submit("panda", ["a"], job_id="mine").result()
    assert client.submit("panda", ["a"], job_id="mine").result().complete


def test_a_wait_that_runs_out_is_met_once() -> None:
    client = FakeRerankClient()
    client.fail_next(ResultTimeout("not yet"))
    job = client.submit("panda", ["a"])

    with pytest.raises(ResultTimeout):
        job.result(1)
    assert job.result(1).complete


def test_asyncio_meets_failures_too() -> None:
    async def ask() -> None:
        async with AsyncFakeRerankClient() as client:
            client.fail_next(QueueFull("full"))
            with pytest.raises(QueueFull):
                await client.rerank("panda", ["a"])
            assert (await client.rerank("panda", ["b"], top_n=1))[0].index == 0
            assert [call.top_n for call in client.calls] == [None, 1]

    asyncio.run(ask())
