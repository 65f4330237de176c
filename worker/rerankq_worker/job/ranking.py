"""From logits to a ranking. Pure arithmetic: no text but the caller's own document ids, no queue, no tensors."""

import math
from collections.abc import Sequence

import numpy as np

from rerankq.contract.messages import RankedDocument, RerankRequest
from rerankq_worker.scoring import Logits


def rank(request: RerankRequest, logits: Logits, truncated: Sequence[bool]) -> list[RankedDocument]:
    """The request's documents, best first, at most `top_n` of them.

    Ordered by logit, because sigmoids of good matches tie; equal logits keep the caller's order. Documents without
    a score follow in the caller's order, marked by a None.

    Args:
        logits: one per document, in the caller's order; NaN for an unscored one.
        truncated: whether the model read only the beginning, likewise.
    """
    ids = request.ids
    order = np.argsort(-logits, kind="stable")  # numpy sorts NaN last
    return [
        _result(int(index), float(logits[index]), truncated[index], ids[index], request.raw_scores)
        for index in order[: request.top_n]
    ]


def sigmoid(logit: float) -> float:
    """0..1, without overflow at either end."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    exponential = math.exp(logit)
    return exponential / (1 + exponential)


def _result(index: int, logit: float, truncated: bool, document_id: str | None, raw: bool) -> RankedDocument:
    known = None if math.isnan(logit) else logit
    score = known if raw or known is None else sigmoid(known)
    return RankedDocument(
        index=index, relevance_score=score, logit=known, truncated=truncated, id=document_id
    )
