"""Rankings by the words that a query and its documents share: the same everywhere, and sensible to look at."""

import math
import re
import time
import unicodedata
from collections.abc import Sequence
from itertools import pairwise

from rerankq.contract.errors import DeadlineExceeded, InvalidRequest, RerankError
from rerankq.contract.messages import (
    ModelInfo,
    RankedDocument,
    Ranking,
    RerankRequest,
    Timings,
    Usage,
    WorkerInfo,
)

NAME = "fake"

# Thai to Myanmar, Khmer, Han, kana and Hangul: what is written without spaces, or whose words end in what changes.
_UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_RUN = re.compile(rf"[{_UNSPACED}]+|[^\W{_UNSPACED}]+")
_PUNCTUATION = re.compile(r"[^\w]")


def answer(job_id: str, request: RerankRequest) -> Ranking | RerankError:
    """What a worker would say, a term for a token. It serves whatever model it is asked for."""
    if request.deadline is not None and request.deadline <= time.time():
        return DeadlineExceeded(f"job {job_id} was not started before its deadline", {"started": False})
    limit, documents = request.max_tokens_per_doc, [terms(text) for text in request.texts]
    cut = [limit is not None and len(document) > limit for document in documents]
    if any(cut) and not request.truncation:
        indices = [index for index, is_cut in enumerate(cut) if is_cut]
        return InvalidRequest(
            f"documents {indices} are longer than {limit} tokens; shorten them, or allow truncation",
            {"field": "documents", "indices": indices},
        )
    query = terms(request.query)
    logits = [logit(query, document[:limit]) for document in documents]
    return _ranking(job_id, request, logits, cut)


def terms(text: str) -> list[str]:
    """The words of a text; of writing without spaces each character and each two neighbours."""
    found: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFKC", text).casefold()):
        found += _neighbours(run) if re.match(rf"[{_UNSPACED}]", run) else [run]
    return found


def logit(query: Sequence[str], document: Sequence[str]) -> float:
    """From -4, nothing shared, to 5, the very query: how much of the query a document has, then how little else."""
    asked, there = set(query), set(document)
    shared = len(asked & there)
    return -4.0 + 8.0 * shared / max(len(asked), 1) + shared / max(len(there), 1)


def _neighbours(run: str) -> list[str]:
    letters = _PUNCTUATION.sub(" ", run)
    return [c for c in letters if c != " "] + [a + b for a, b in pairwise(letters) if " " not in (a, b)]


def _ranking(job_id: str, request: RerankRequest, logits: list[float], cut: list[bool]) -> Ranking:
    scores = logits if request.raw_scores else [1 / (1 + math.exp(-logit)) for logit in logits]
    least = -math.inf if request.score_threshold is None else request.score_threshold
    order = sorted(range(len(logits)), key=lambda index: -logits[index])  # ties keep the caller's order
    good_enough = [index for index in order if scores[index] >= least]
    distinct = len(set(request.texts))
    return Ranking(
        id=job_id,
        model=ModelInfo(name=request.model or NAME, revision=NAME),
        results=[
            RankedDocument(
                index=index,
                relevance_score=scores[index],
                logit=logits[index],
                truncated=cut[index],
                id=request.ids[index],
            )
            for index in good_enough[: request.top_n]
        ],
        complete=True,
        scored=len(logits),
        total=len(logits),
        usage=Usage(pairs=len(logits), duplicate_pairs=len(logits) - distinct, truncated_documents=sum(cut)),
        timings=Timings(),
        worker=WorkerInfo(name=NAME, device=NAME, dtype="fp32"),
    )
