"""What a request amounts to, told from its characters: pairs and tokens. Knows no tokenizer and no model."""

import math
from dataclasses import dataclass

from rerankq.contract.messages import RerankRequest

# Of the XLM-RoBERTa vocabulary, on English (SQuAD, NovelEval) and Chinese (CMRC, DRCD) paragraphs: within 6 %.
ASCII_CHARACTERS_PER_TOKEN = 4.2
OTHER_CHARACTERS_PER_TOKEN = 1.25
SPECIAL_TOKENS = 4  # <s> query </s></s> document </s>
DEFAULT_MAX_LENGTH_TOKENS = 1024  # a worker's RERANKQ_MAX_LENGTH_TOKENS is not known here
SHARE_READ_ONCE = 15 / 16  # of a window; the rest overlaps the next


@dataclass(frozen=True, slots=True)
class Amount:
    """What a model reads of a request."""

    pairs: int
    """Rows: one for each document, or for each of its windows."""
    tokens: int
    truncated_documents: int


def pairs_of(request: RerankRequest) -> int:
    """Rows that the model will read; a guess only where there may be windows."""
    return len(request.documents) if request.long_documents == "truncate" else amount_of(request).pairs


def amount_of(request: RerankRequest) -> Amount:
    """What the model will read, about."""
    query = min(_tokens(request.query), DEFAULT_MAX_LENGTH_TOKENS * 3 // 4)
    room = DEFAULT_MAX_LENGTH_TOKENS - SPECIAL_TOKENS - query
    step = room * SHARE_READ_ONCE
    windows = 1 if request.long_documents == "truncate" else request.max_windows_per_doc or math.inf
    most = min(room + (windows - 1) * step, request.max_tokens_per_doc or math.inf)
    given = [_tokens(text) for text in request.texts]
    kept = [min(tokens, most) for tokens in given]
    pairs = sum(1 + math.ceil(max(tokens - room, 0) / step) for tokens in kept)
    return Amount(
        pairs,
        round(sum(kept)) + pairs * (query + SPECIAL_TOKENS),
        sum(tokens > most for tokens in given),
    )


def _tokens(text: str) -> int:
    others = 0 if text.isascii() else len(text) - len(text.encode("ascii", "ignore"))
    return round((len(text) - others) / ASCII_CHARACTERS_PER_TOKEN + others / OTHER_CHARACTERS_PER_TOKEN)
