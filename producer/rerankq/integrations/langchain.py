# pyright: reportMissingImports=false, reportUntypedBaseClass=false, reportUnknownParameterType=false
"""LangChain: a document compressor that puts documents in order of relevance.

from rerankq.integrations.langchain import RerankqRerank
ContextualCompressionRetriever(base_compressor=RerankqRerank(url="redis://…", top_n=5), base_retriever=…)
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

try:
    from langchain_core.documents import BaseDocumentCompressor, Document
except ModuleNotFoundError as error:
    raise ImportError("langchain-core is not installed: pip install 'rerankq[langchain]'") from error

from rerankq.integrations.asking import Asks
from rerankq.integrations.over_http import Place


class RerankqRerank(Asks, BaseDocumentCompressor):
    """Documents by relevance, best first; `metadata["relevance_score"]` of each says how relevant."""

    def compress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Any = None,  # noqa: ARG002 - part of the signature; there is nothing to call back about
    ) -> Sequence[Document]:
        """The best, each a copy with its score."""
        if not documents:
            return []
        return _placed(documents, self._ranked(query, _texts(documents)))

    async def acompress_documents(
        self,
        documents: Sequence[Document],
        query: str,
        callbacks: Any = None,  # noqa: ARG002
    ) -> Sequence[Document]:
        """The same, awaited."""
        if not documents:
            return []
        return _placed(documents, await self._aranked(query, _texts(documents)))


def _texts(documents: Sequence[Document]) -> list[str]:
    return [document.page_content for document in documents]


def _placed(documents: Sequence[Document], places: Sequence[Place]) -> list[Document]:
    return [_scored(documents[place.index], place.relevance_score) for place in places]


def _scored(document: Document, score: float | None) -> Document:
    return document.model_copy(update={"metadata": {**deepcopy(document.metadata), "relevance_score": score}})
