"""An application's own code, as the documents show it: no type checker has anything to say."""

import time
from collections.abc import AsyncIterator

from rerankq import (
    AsyncRerankClient,
    AsyncReranker,
    Document,
    JobStatus,
    QueueFull,
    Ranking,
    RerankClient,
    Reranker,
)
from rerankq.testing import AsyncFakeRerankClient, FakeRerankClient


def best(reranker: Reranker, query: str, documents: list[str]) -> list[str]:
    ranking = reranker.rerank(
        query, documents, top_n=3, timeout=2.0, long_documents="windows", score_threshold=0
    )
    return ranking.texts(documents)


def later(client: RerankClient) -> float:
    job = client.submit(
        "q", [Document(text="a", id="1")], lane="bulk", deadline=time.time() + 60, job_id="mine"
    )
    status: JobStatus = job.status()
    if status.state == "dead":
        print(status.error)
    try:
        ranking = job.result(timeout=10)
    except QueueFull as error:
        return error.retry_after_seconds
    return sum(result.relevance_score or 0.0 for result in ranking) + len(ranking) + ranking[0].index


async def dependency() -> AsyncIterator[AsyncReranker]:
    async with AsyncRerankClient("redis://127.0.0.1:6379/0") as client:
        yield client


async def ask(reranker: AsyncReranker) -> Ranking:
    job = await reranker.submit(
        "q", ({"text": "a"}, {"text": "b", "id": 2}), return_documents=True, max_windows_per_doc=3
    )
    return await job.result() if await job.done() else await reranker.rerank("q", ["a"])


async def ask_many(client: AsyncRerankClient) -> list[int]:
    many = client.rerank_many([("q", ["a"])], concurrency=8, top_n=1)
    return [len(answer) async for _, answer in many if isinstance(answer, Ranking)]


def test_with_a_fake(rerank_client: FakeRerankClient) -> None:
    rerank_client.fail_next(QueueFull("full", {"retry_after_seconds": 3}))
    reranker: Reranker = rerank_client
    later_on: AsyncReranker = AsyncFakeRerankClient()
    print(best(reranker, "q", ["a"]), ask(later_on), rerank_client.calls[0].texts)


def main() -> None:
    with RerankClient() as client:
        print(best(client, "q", ["a", "b"]), client.lanes()["bulk"], [w.name for w in client.workers()])
        first: list[dict[str, object]] = client.rerank("q", ["a"]).rows()
        print(first, later(client))


async def test() -> None:
    print(best(FakeRerankClient(), "q", ["a"]), await ask(AsyncFakeRerankClient()))
