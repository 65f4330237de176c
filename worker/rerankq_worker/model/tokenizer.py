"""Turn a query and its documents into rows of token ids, framed as the model's family frames them.

Knows the model's tokenizer files only: no torch, no queue. Text can never produce a token of the frame here. Leaving
those out of the added tokens is not enough for that, since the Unigram vocabulary itself holds pieces named `<s>`,
`</s>`, `<pad>`, `<mask>` and finds them in text, and it would renumber the others: they keep their places, under names
that nobody can guess.
"""

import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from tokenizers import AddedToken, Tokenizer

from rerankq_worker.model.added_tokens import SAVE_ANEW, AddedTokens, read_added_tokens
from rerankq_worker.model.family import Family
from rerankq_worker.model.files import ModelBroken, family_of, read_config, read_json_object, reading
from rerankq_worker.model.reading import DocumentTooLong, NoInstruction, QueryTooLong, Reading, Row

MIN_LENGTH_TOKENS = 16

CHARS_PER_TOKEN = 8  # generous: text holds 1 (Chinese) to 5 (English) characters a token
SETTLING_TOKENS = 64  # tokens near a cut may differ from those of the whole text; this many are thrown away


class PairTokenizer:
    """Rows for one model; safe to share between threads, since nothing in it changes after it was built.

    Truncation is done here, on token ids: the library's own is a setting of the tokenizer, and changing it while
    another thread encodes is its "Already borrowed" error.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        frame: Sequence[Sequence[int]],
        max_length_tokens: int,
        longest_added_token_characters: int = 0,
    ) -> None:
        if max_length_tokens < MIN_LENGTH_TOKENS:
            raise ValueError(
                f"expected a length of at least {MIN_LENGTH_TOKENS} tokens, got {max_length_tokens}"
            )
        self._tokenizer = tokenizer
        self._before, self._between, self._behind = frame
        self._frame_tokens = sum(map(len, frame))
        self.max_length_tokens = max_length_tokens
        # a cut inside an added token leaves, in its place, perhaps a token per character
        self._settling_tokens = SETTLING_TOKENS + longest_added_token_characters
        # FlagReranker's cap, so that the document keeps some room
        self.max_query_tokens = min(max_length_tokens * 3 // 4, max_length_tokens - self._frame_tokens - 1)

    @classmethod
    def from_model_dir(cls, path: Path, max_length_tokens: int = 1024) -> "PairTokenizer":
        """The tokenizer of a checked model directory; the length is capped at what the model's positions hold."""
        with reading(path):
            definition = read_json_object(path / "tokenizer.json")
            family = family_of(path)
            added = read_added_tokens(path, definition, family)
            tokenizer, ids = _unforgeable(definition, added)
            config = read_config(path)
            _check_ids(path, family, tokenizer, added, ids, config.get("vocab_size"))
            length = min(max_length_tokens, family.usable_length_tokens(config))
        frame = [[ids[added.roles[role]] for role in roles] for roles in family.frame]
        return cls(tokenizer, frame, length, max(map(len, added.tokens)))

    def read(self, reading: Reading) -> list[Row]:
        """One row per document, in order; the query is tokenized once.

        A query longer than 3/4 of the length is cut to that; a document is cut to the room that is left, and to
        `max_tokens_per_doc`.

        Raises:
            QueryTooLong, DocumentTooLong: only with `truncation=False`, instead of cutting.
            NoInstruction
        """
        if reading.instruction is not None:
            raise NoInstruction
        limit = reading.max_tokens_per_doc
        if limit is not None and limit < 1:
            raise ValueError(f"expected max_tokens_per_doc to be at least 1, got {limit}")
        query_ids, query_cut = self._query(reading.query, reading.truncation)
        room = self.max_length_tokens - self._frame_tokens - len(query_ids)
        if limit is not None:
            room = min(room, limit)
        kept = self._encode(reading.documents, room)
        too_long = [index for index, ids in enumerate(kept) if len(ids) > room]
        if too_long and not reading.truncation:
            raise DocumentTooLong(too_long, room)
        head = [*self._before, *query_ids, *self._between]
        return [
            Row(
                np.array([*head, *ids[:room], *self._behind], dtype=np.int32),
                query_cut or len(ids) > room,
                document,
            )
            for document, ids in enumerate(kept)
        ]

    def _query(self, query: str, truncation: bool) -> tuple[list[int], bool]:
        limit = self.max_query_tokens
        ids = self._encode([query], limit)[0]
        if len(ids) > limit and not truncation:
            raise QueryTooLong(limit)
        return ids[:limit], len(ids) > limit

    def _encode(self, texts: Sequence[str], limit_tokens: int) -> list[list[int]]:
        """Token ids of each text: all of them, or, where there are more than `limit_tokens`, at least one more."""
        enough_tokens = limit_tokens + self._settling_tokens
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


def _unforgeable(definition: dict[str, Any], added: AddedTokens) -> tuple[Tokenizer, dict[str, int]]:
    """The same tokenizer, ids unchanged, to which `<s>` in a text is three characters; and the added tokens' ids."""
    secret = f" {secrets.token_hex(16)}"  # text is split at blanks before pieces are looked up

    def renamed(content: str) -> str:
        return content + secret if content in added.frame else content

    model = definition["model"]
    pieces = model["vocab"]
    if isinstance(pieces, dict):
        vocabulary: Any = {renamed(piece): index for piece, index in cast(dict[str, int], pieces).items()}
    else:
        vocabulary = [[renamed(piece), score] for piece, score in pieces]
    unknown = {"unk_token": renamed(model["unk_token"])} if model.get("unk_token") else {}
    bare = {
        **definition,
        "added_tokens": [],
        "post_processor": None,
        "truncation": None,
        "padding": None,
        "model": {**model, **unknown, "vocab": vocabulary},
    }
    tokenizer = Tokenizer.from_str(json.dumps(bare))
    tokenizer.encode_special_tokens = added.splits_special
    tokenizer.add_tokens(
        [
            AddedToken(renamed(content), special=True) if content in added.frame else token
            for content, token in added.tokens.items()
        ]
    )
    ids = {content: tokenizer.token_to_id(renamed(content)) for content in added.tokens}
    return tokenizer, {content: index for content, index in ids.items() if index is not None}


def _check_ids(
    directory: Path,
    family: Family,
    tokenizer: Tokenizer,
    added: AddedTokens,
    ids: dict[str, int],
    embeddings: int | None,
) -> None:
    """Refuse ids other than those the files give, which other rows of the embedding table were trained for."""
    vocabulary = tokenizer.get_vocab_size(with_added_tokens=False)
    declared = {content for content, _ in added.ids}
    for content in [added.roles[role] for roles in family.frame for role in roles]:
        if ids[content] >= vocabulary and content not in declared:
            raise ModelBroken(
                f"{directory}: the tokenizer has no {content} token; it is none of {family.model_type}"
            )
    for content, said in added.ids:
        if ids.get(content) != said:
            raise ModelBroken(
                f"{directory}: the token {content!r} gets id {ids.get(content)} where a file says {said}; "
                f"{SAVE_ANEW}"
            )
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values())
    if embeddings is not None and largest >= embeddings:
        raise ModelBroken(
            f"{directory}: the tokenizer has ids up to {largest}, the embedding table (vocab_size) {embeddings} rows; "
            "train the model after model.resize_token_embeddings(len(tokenizer)), or serve the tokenizer it was "
            "trained with"
        )
