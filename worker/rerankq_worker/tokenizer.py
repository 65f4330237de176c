"""Turn a query and its documents into rows of token ids: `<s> query </s></s> document </s>`.

Knows the model's tokenizer.json only: no torch, no queue. Text can never produce a special token here. Setting
`encode_special_tokens` is not enough for that: the Unigram vocabulary itself holds pieces named `<s>`, `</s>`,
`<pad>`, `<mask>` and finds them in text, so those pieces are renamed to what no text can match.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from rerankq_worker.model_files import ModelBroken, read_config, usable_length_tokens

TokenIds = npt.NDArray[np.int32]

MIN_LENGTH_TOKENS = 16
FRAME_TOKENS = 4  # <s>, </s></s>, </s>

CHARS_PER_TOKEN = 8  # generous: text holds 1 (Chinese) to 5 (English) characters a token
SETTLING_TOKENS = 64  # tokens near a cut may differ from those of the whole text; this many are thrown away


class InputTooLong(ValueError):
    """A text is longer than allowed and `truncation=False` was asked for."""


class QueryTooLong(InputTooLong):
    """The query alone is longer than its share."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"the query is longer than {self.limit} tokens; shorten it, or allow truncation"


class DocumentTooLong(InputTooLong):
    """Some documents are longer than the room the query leaves them."""

    def __init__(self, indices: list[int], limit: int) -> None:
        super().__init__(indices, limit)
        self.indices = indices
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"documents {self.indices} are longer than {self.limit} tokens; shorten them, or allow truncation"
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One tokenized query-document pair."""

    token_ids: TokenIds
    """int32, special tokens included."""
    truncated: bool
    """Whether the query or the document lost tokens."""


class PairTokenizer:
    """Rows for one model; safe to share between threads, since nothing in it changes after it was built.

    Truncation is done here, on token ids: the library's own is a setting of the tokenizer, and changing it while
    another thread encodes is its "Already borrowed" error.
    """

    def __init__(self, tokenizer: Tokenizer, frame: tuple[int, int, int], max_length_tokens: int) -> None:
        if max_length_tokens < MIN_LENGTH_TOKENS:
            raise ValueError(
                f"expected a length of at least {MIN_LENGTH_TOKENS} tokens, got {max_length_tokens}"
            )
        self._tokenizer = tokenizer
        self._start, self._separator, self._end = frame
        self.max_length_tokens = max_length_tokens
        # FlagReranker's cap, so that the document keeps some room
        self.max_query_tokens = min(max_length_tokens * 3 // 4, max_length_tokens - FRAME_TOKENS - 1)

    @classmethod
    def from_model_dir(cls, path: Path, max_length_tokens: int = 1024) -> "PairTokenizer":
        """The tokenizer of a checked model directory; the length is capped at what the model's positions hold."""
        definition = _read_definition(path / "tokenizer.json")
        start, end = _special_id(definition, "<s>"), _special_id(definition, "</s>")
        usable = usable_length_tokens(read_config(path))
        tokenizer = Tokenizer.from_str(json.dumps(_without_special_tokens(definition)))
        return cls(tokenizer, (start, end, end), min(max_length_tokens, usable))

    def rows(
        self,
        query: str,
        documents: Sequence[str],
        *,
        max_tokens_per_doc: int | None = None,
        truncation: bool = True,
    ) -> list[Row]:
        """One row per document, in order; the query is tokenized once.

        A query longer than 3/4 of the length is cut to that; a document is cut to the room that is left, and to
        `max_tokens_per_doc`.

        Raises:
            QueryTooLong, DocumentTooLong: only with `truncation=False`, instead of cutting.
        """
        if max_tokens_per_doc is not None and max_tokens_per_doc < 1:
            raise ValueError(f"expected max_tokens_per_doc to be at least 1, got {max_tokens_per_doc}")
        query_ids, query_cut = self._query(query, truncation)
        room = self.max_length_tokens - FRAME_TOKENS - len(query_ids)
        if max_tokens_per_doc is not None:
            room = min(room, max_tokens_per_doc)
        kept = self._encode(documents, room)
        too_long = [index for index, ids in enumerate(kept) if len(ids) > room]
        if too_long and not truncation:
            raise DocumentTooLong(too_long, room)
        head = [self._start, *query_ids, self._separator, self._separator]
        return [
            Row(np.array([*head, *ids[:room], self._end], dtype=np.int32), query_cut or len(ids) > room)
            for ids in kept
        ]

    def _query(self, query: str, truncation: bool) -> tuple[list[int], bool]:
        limit = self.max_query_tokens
        ids = self._encode([query], limit)[0]
        if len(ids) > limit and not truncation:
            raise QueryTooLong(limit)
        return ids[:limit], len(ids) > limit

    def _encode(self, texts: Sequence[str], limit_tokens: int) -> list[list[int]]:
        """Token ids of each text: all of them, or, where there are more than `limit_tokens`, at least one more."""
        enough_tokens = limit_tokens + SETTLING_TOKENS
        budget_chars = enough_tokens * CHARS_PER_TOKEN
        ids: list[list[int]] = [[] for _ in texts]
        waiting = list(range(len(texts)))
        while waiting:
            heads = [texts[index][:budget_chars] for index in waiting]
            encoded = self._tokenizer.encode_batch_fast(heads, add_special_tokens=False)
            for index, encoding in zip(waiting, encoded, strict=True):
                ids[index] = encoding.ids
            waiting = [
                index
                for index in waiting
                if len(texts[index]) > budget_chars and len(ids[index]) < enough_tokens
            ]
            budget_chars *= 4  # long words or long runs of blanks: look further
        return ids


def _read_definition(file: Path) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ModelBroken(f"{file} cannot be read ({error}); fetch it again") from error


def _special_id(definition: dict[str, Any], token: str) -> int:
    for added in definition.get("added_tokens", []):
        if added["content"] == token:
            return int(added["id"])
    raise ModelBroken(f"the tokenizer has no {token} token; it is not XLM-RoBERTa's")


def _without_special_tokens(definition: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer, ids unchanged, to which `<s>` in a text is three characters like any others."""
    special = {added["content"] for added in definition["added_tokens"] if added["special"]}
    vocabulary = definition["model"]["vocab"]
    if isinstance(vocabulary, dict):
        vocabulary = {_unmatchable(piece, special): index for piece, index in vocabulary.items()}
    else:
        vocabulary = [[_unmatchable(piece, special), score] for piece, score in vocabulary]
    return {
        **definition,
        "added_tokens": [added for added in definition["added_tokens"] if not added["special"]],
        "post_processor": None,
        "truncation": None,
        "padding": None,
        "model": {**definition["model"], "vocab": vocabulary},
    }


def _unmatchable(piece: str, special: set[str]) -> str:
    return (
        f"{piece} special" if piece in special else piece
    )  # text is split at blanks before pieces are looked up
