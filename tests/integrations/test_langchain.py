"""`rerankq.integrations.langchain` with the LangChain that is installed."""

import asyncio
import copy
import pickle

import pytest

from rerankq import InvalidRequest, InvalidSettings, QueueFull

langchain = pytest.importorskip("langchain_core.documents")
from rerankq.integrations.langchain import RerankqRerank  # noqa: E402

Document = langchain.Document
QUERY = "中国的首都是哪里？"
TEXTS = ["上海是中国最大的城市和经济中心。", "北京是中国的政治中心和首都。", "Pandas eat bamboo. 🐼"]


def documents() -> list:
    return [Document(text, id=str(place), metadata={"tags": [place]}) for place, text in enumerate(TEXTS)]


def test_documents_come_back_by_relevance_as_copies_with_their_score(where: dict[str, str]) -> None:
    given = documents()

    ranked = RerankqRerank(**where).compress_documents(given, QUERY)

    assert [document.id for document in ranked] == ["1", "0", "2"]
    assert ranked[0].metadata["relevance_score"] == pytest.approx(0.7394, abs=1e-3)
    ranked[0].metadata["tags"].append("changed")
    assert given == documents()


def test_top_n_and_a_cut_are_asked_for(where: dict[str, str]) -> None:
    whole = RerankqRerank(**where, top_n=1).compress_documents(documents(), QUERY)
    begun = RerankqRerank(**where, top_n=1, max_tokens_per_doc=2).compress_documents(documents(), QUERY)

    assert len(whole) == len(begun) == 1
    assert begun[0].metadata["relevance_score"] < whole[0].metadata["relevance_score"]


def test_ties_keep_their_order(where: dict[str, str]) -> None:
    twins = [Document("the same", metadata={"place": place}) for place in range(4)]

    ranked = RerankqRerank(**where).compress_documents(twins, "same")

    assert [document.metadata["place"] for document in ranked] == [0, 1, 2, 3]


def test_nothing_is_asked_for_no_documents() -> None:
    nobody = RerankqRerank(url="redis://127.0.0.1:1/0")

    assert nobody.compress_documents([], QUERY) == []
    assert asyncio.run(nobody.acompress_documents([], QUERY)) == []


def test_event_loops_in_turn_are_answered(where: dict[str, str]) -> None:
    reranker = RerankqRerank(**where, top_n=1)

    async def best() -> str:
        (document,) = await reranker.acompress_documents(documents(), QUERY, callbacks=None)
        await reranker.aclose()
        return document.id

    assert [asyncio.run(best()) for _ in range(2)] == ["1", "1"]


def test_many_are_answered_at_once(where: dict[str, str]) -> None:
    reranker = RerankqRerank(**where, top_n=1)

    async def all_of_them() -> list:
        asked = [reranker.acompress_documents(documents(), QUERY) for _ in range(20)]
        ranked = await asyncio.gather(*asked)
        await reranker.aclose()
        return ranked

    assert [ranked[0].id for ranked in asyncio.run(all_of_them())] == ["1"] * 20


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_and_a_pickle_ask_as_the_original_does(where: dict[str, str], copied) -> None:
    reranker = RerankqRerank(**where, top_n=1)
    reranker.compress_documents(documents(), QUERY)

    another = copied(reranker)
    reranker.close()

    assert another.compress_documents(documents(), QUERY)[0].id == "1"
    another.close()


def test_without_an_address_it_asks_where_any_client_does(
    queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RERANKQ_BROKER_URL", queue)

    assert RerankqRerank(top_n=1).compress_documents(documents(), QUERY)[0].id == "1"


def test_a_changed_copy_asks_where_it_says(where: dict[str, str]) -> None:
    reranker = RerankqRerank(**where)
    reranker.compress_documents(documents(), QUERY)

    moved = reranker.model_copy(update={"top_n": 1})

    assert len(moved.compress_documents(documents(), QUERY)) == 1


def test_what_was_closed_asks_again(where: dict[str, str]) -> None:
    reranker = RerankqRerank(**where, top_n=1)
    for _ in range(2):
        assert reranker.compress_documents(documents(), QUERY)[0].id == "1"
        reranker.close()


def test_neither_key_nor_address_is_shown(face: dict[str, str]) -> None:
    reranker = RerankqRerank(url="http://user:secret@host:1", api_key="secret")

    assert "secret" not in repr(reranker)
    assert "api_key" not in reranker.model_dump()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param({"url": "ftp://host"}, "redis://", id="another scheme"),
        pytest.param({"url": "http://"}, "without a host", id="no host"),
        pytest.param({"url": "redis://h:1/0", "api_key": "k"}, "api_key", id="a key for a queue"),
        pytest.param({"url": "redis://h:1/0?timeout=3"}, "timeout", id="an option nobody knows"),
    ],
)
def test_an_address_that_cannot_be_asked_is_refused_where_it_is_given(arguments: dict, says: str) -> None:
    with pytest.raises(InvalidSettings, match=says):
        RerankqRerank(**arguments)


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k"):
        RerankqRerank(top_k=3)


def test_a_refusal_comes_as_our_own_error(where: dict[str, str], face: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match="query"):
        RerankqRerank(**where).compress_documents(documents(), " ")
    with pytest.raises(QueueFull) as full:
        RerankqRerank(**face).compress_documents(documents(), "refuse 429")
    assert full.value.retry_after_seconds == 1.0
    with pytest.raises(InvalidSettings):
        RerankqRerank(url=face["url"], api_key="another").compress_documents(documents(), QUERY)


def test_it_sits_in_a_retriever(where: dict[str, str]) -> None:
    retrievers = pytest.importorskip("langchain_classic.retrievers")
    from langchain_core.retrievers import BaseRetriever

    class All(BaseRetriever):
        def _get_relevant_documents(self, query, **_):  # noqa: ARG002
            return documents()

    best = retrievers.ContextualCompressionRetriever(
        base_compressor=RerankqRerank(**where, top_n=1), base_retriever=All()
    )

    assert best.invoke(QUERY)[0].id == "1"
    assert asyncio.run(best.ainvoke(QUERY))[0].id == "1"
