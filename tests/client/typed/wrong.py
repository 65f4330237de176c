"""An application's code with one mistake on each line that says so."""

from rerankq import AsyncRerankClient, RerankClient, Reranker
from rerankq.bulk import rerank_many


def ask(client: RerankClient, reranker: Reranker) -> None:
    client.rerank("q", ["a"], topn=3)  # mistake
    client.rerank("q", "only one string")  # mistake
    client.rerank("q", {"a": 1, "b": 2})  # mistake
    client.submit("q", ["a"], lane="fast")  # mistake
    client.submit("q", ["a"], deadline="tomorrow")  # mistake
    reranker.rerank("q", ["a"], on_deadline="part")  # mistake
    reranker.rerank("q", ["a"], long_documents="whole")  # mistake
    reranker.rerank("q", [1, 2])  # mistake
    ranking = client.rerank("q", ["a"], timeout=2)
    print(ranking.results[0].score)  # mistake
    print(ranking[0].relevance_score + 1)  # mistake
    client.submit("q", ["a"]).results()  # mistake
    client.job("j").status().status  # mistake


async def ask_from_a_loop(client: AsyncRerankClient) -> None:
    client.rerank("q", ["a"]).texts()  # mistake
    await client.submit("q", ["a"], top_n="3")  # mistake
    with client:  # mistake
        pass


def ask_many(client: RerankClient) -> None:
    for _, answer in rerank_many([("q", ["a"])], client, topn=3):  # mistake
        print(answer)
