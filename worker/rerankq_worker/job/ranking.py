"""From logits to a ranking. Pure arithmetic: no text but the caller's own document ids, no queue, no tensors."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rerankq.contract.messages import RankedDocument, RerankRequest, Window
from rerankq_worker.model.reading import Row, Span
from rerankq_worker.model.scales import SCALES
from rerankq_worker.scoring import Logits


def rank(request: RerankRequest, rows: Sequence[Row], logits: Logits, scale: str) -> list[RankedDocument]:
    """The request's documents, best first, at most `top_n` of them.

    Ordered by logit, because sigmoids of good matches tie; equal logits keep the caller's order. A document in several
    windows has the score of its best one, and none before all are scored. Documents without a score follow in the
    caller's order, marked by a None.

    Args:
        rows: those of the request, each document's together, in the caller's order.
        logits: one per row; NaN for an unscored one.
        scale: how a logit becomes a relevance score, a name of `SCALES`.
    """
    best = best_rows(rows, logits, len(request.documents))
    order = np.argsort(-logits[best], kind="stable")  # numpy sorts NaN last
    ids = request.ids
    results = [
        _result(rows[best[index]], float(logits[best[index]]), ids[index], request, scale)
        for index in order.tolist()
    ]
    return [result for result in results if _is_wanted(result, request.score_threshold)][: request.top_n]


def best_rows(rows: Sequence[Row], logits: Logits, documents: int) -> list[int]:
    """For each document the row whose logit is its score: the largest; an unscored one where there is any."""
    if len(rows) == documents:
        return list(range(documents))
    by_document = [row.document for row in rows]
    firsts = np.searchsorted(by_document, np.arange(documents + 1)).tolist()
    # argmax takes the first NaN for the largest
    return [first + int(np.argmax(logits[first:end])) for first, end in pairwise(firsts)]


def _is_wanted(result: RankedDocument, threshold: float | None) -> bool:
    return threshold is None or result.relevance_score is None or result.relevance_score >= threshold


def _result(
    row: Row, logit: float, document_id: str | None, request: RerankRequest, scale: str
) -> RankedDocument:
    known = None if math.isnan(logit) else logit
    return RankedDocument(
        index=row.document,
        relevance_score=known if request.raw_scores or known is None else SCALES[scale](known),
        logit=known,
        truncated=row.truncated,
        window=None if row.span is None or known is None else _window(row.span),
        id=document_id,
    )


def _window(span: Span) -> Window:
    return Window(index=span.index, total=span.total, start=span.start, end=span.end)
