"""`rerankq.integrations.llama_index` with the LlamaIndex that is installed."""

import asyncio
import pickle

import pytest

from rerankq import InvalidRequest

schema = pytest.importorskip("llama_index.core.schema")
from llama_index.core.callbacks import CallbackManager, LlamaDebugHandler  # noqa: E402

from rerankq.integrations.llama_index import RerankqRerank  # noqa: E402

QUERY = "中国的首都是哪里？"
TEXTS = ["上海是中国最大的城市和经济中心。", "北京是中国的政治中心和首都。", "Pandas eat bamboo. 🐼"]


def nodes() -> list:
    return [
        schema.NodeWithScore(node=schema.TextNode(text=text, id_=str(place)), score=0.5)
        for place, text in enumerate(TEXTS)
    ]


def ids(ranked: list) -> list[str]:
    return [found.node.node_id for found in ranked]


def test_nodes_come_back_by_relevance_with_their_score(where: dict[str, str]) -> None:
    ranked = RerankqRerank(**where).postprocess_nodes(nodes(), query_str=QUERY)

    assert ids(ranked) == ["1", "0", "2"]
    assert ranked[0].score == pytest.approx(0.7394, abs=1e-3)


def test_top_n_is_asked_for_and_event_loops_in_turn_are_answered(where: dict[str, str]) -> None:
    reranker = RerankqRerank(**where, top_n=2)

    async def best() -> list[str]:
        ranked = await reranker.apostprocess_nodes(nodes(), query_bundle=schema.QueryBundle(QUERY))
        await reranker.aclose()
        return ids(ranked)

    assert [asyncio.run(best()) for _ in range(2)] == [["1", "0"]] * 2


def test_what_is_ranked_is_the_text_that_is_embedded(where: dict[str, str]) -> None:
    plain, titled = (schema.TextNode(text="Nothing to see."), schema.TextNode(text="Nothing to see."))
    titled.metadata["title"] = "北京是中国的首都"
    given = [schema.NodeWithScore(node=node) for node in (plain, titled)]

    ranked = RerankqRerank(**where).postprocess_nodes(given, query_str=QUERY)

    assert ranked[0].node is titled
    assert ranked[0].score > ranked[1].score


def test_the_score_before_is_kept_where_that_is_asked(where: dict[str, str]) -> None:
    given = nodes()

    ranked = RerankqRerank(**where, keep_retrieval_score=True).postprocess_nodes(given, query_str=QUERY)

    assert [found.node.metadata["retrieval_score"] for found in ranked] == [0.5] * 3
    assert given == nodes(), "what the caller holds was changed"


def test_a_query_is_needed_and_nothing_is_asked_for_no_nodes(where: dict[str, str]) -> None:
    nobody = RerankqRerank(url="redis://127.0.0.1:1/0")

    assert nobody.postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(ValueError, match="query"):
        nobody.postprocess_nodes(nodes())
    with pytest.raises(InvalidRequest, match="query"):
        RerankqRerank(**where).postprocess_nodes(nodes(), query_str="")


def test_listeners_hear_of_it(where: dict[str, str]) -> None:
    heard = LlamaDebugHandler(print_trace_on_end=False)
    reranker = RerankqRerank(**where, callback_manager=CallbackManager([heard]))

    reranker.postprocess_nodes(nodes(), query_str=QUERY)

    begun, ended = heard.get_event_pairs()[0]
    assert begun.payload["query_str"] == QUERY
    assert ids(ended.payload["nodes"]) == ["1", "0", "2"]


def test_it_is_stored_and_pickled_without_its_key(where: dict[str, str], face: dict[str, str]) -> None:
    reranker = RerankqRerank(**where, top_n=1)
    reranker.postprocess_nodes(nodes(), query_str=QUERY)

    again = pickle.loads(pickle.dumps(reranker))
    stored = RerankqRerank(**face).to_json()

    assert ids(again.postprocess_nodes(nodes(), query_str=QUERY)) == ["1"]
    assert face["api_key"] not in stored
    assert RerankqRerank.from_json(stored, api_key=face["api_key"]).url == face["url"]
