# pyright: reportMissingImports=false, reportUntypedBaseClass=false, reportUnknownParameterType=false
"""LlamaIndex: a node postprocessor that puts nodes in order of relevance.

from rerankq.integrations.llama_index import RerankqRerank
index.as_query_engine(similarity_top_k=50, node_postprocessors=[RerankqRerank(url="redis://…", top_n=5)])
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

try:
    from llama_index.core.callbacks import CBEventType, EventPayload
    from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
    from llama_index_instrumentation import get_dispatcher
except ModuleNotFoundError as error:
    raise ImportError("llama-index-core is not installed: pip install 'rerankq[llama-index]'") from error

from rerankq.integrations.asking import Asks
from rerankq.integrations.over_http import Place

_dispatcher = get_dispatcher(__name__)


class RerankqRerank(Asks, BaseNodePostprocessor):
    """Nodes by relevance, best first; `score` of each says how relevant."""

    keep_retrieval_score: bool = False
    """Keep the score that a node came with in its metadata, as `retrieval_score`."""

    @classmethod
    def class_name(cls) -> str:
        """As LlamaIndex's own stores name it."""
        return "RerankqRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        with self._told(nodes, query) as placed:
            if nodes:
                placed += self._placed(nodes, self._ranked(query, _texts(nodes)))
        return placed

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _query(query_bundle)
        with self._told(nodes, query) as placed:
            if nodes:
                placed += self._placed(nodes, await self._aranked(query, _texts(nodes)))
        return placed

    def _placed(self, nodes: list[NodeWithScore], places: Sequence[Place]) -> list[NodeWithScore]:
        return [self._scored(nodes[place.index], place.relevance_score) for place in places]

    def _scored(self, found: NodeWithScore, score: float | None) -> NodeWithScore:
        node = found.node
        if self.keep_retrieval_score:
            node = node.model_copy(update={"metadata": {**node.metadata, "retrieval_score": found.score}})
        return NodeWithScore(node=node, score=score)

    @contextmanager
    def _told(self, nodes: list[NodeWithScore], query: str) -> Generator[list[NodeWithScore]]:
        """What comes of it, to be filled in; told to LlamaIndex's listeners as its own rerankers tell it."""
        top_n, model = self.top_n or len(nodes), self.model or self.class_name()
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: model,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: top_n,
        }
        placed: list[NodeWithScore] = []
        _dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=model))
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield placed
            event.on_end(payload={EventPayload.NODES: placed})
        _dispatcher.event(ReRankEndEvent(nodes=placed))


def _query(bundle: QueryBundle | None) -> str:
    if bundle is None:
        raise ValueError("expected a query, got None: pass query_str or query_bundle")
    return bundle.query_str


def _texts(nodes: Sequence[NodeWithScore]) -> list[str]:
    return [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
