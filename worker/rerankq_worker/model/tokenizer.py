"""Turn a query and its documents into rows of token ids, framed as the model's tokenizer frames them.

Knows the model's tokenizer files only: no torch, no queue. Text can never produce a token of the frame here. Leaving
those out of the added tokens is not enough for that, since a vocabulary itself holds pieces named `<s>`, `</s>`,
`<pad>`, `<mask>`, which Unigram finds in text, and it would renumber the others: they keep their places, under names
that nobody can guess.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

from rerankq_worker.model.added_tokens import SAVE_ANEW, AddedTokens, read_added_tokens
from rerankq_worker.model.family import Family
from rerankq_worker.model.files import ModelBroken, family_of, read_config, read_json_object, reading
from rerankq_worker.model.frame import Frame, Mark, frame_of
from rerankq_worker.model.quickest import TextReader, quickest_reader
from rerankq_worker.model.reading import DocumentTooLong, NoInstruction, QueryTooLong, Reading, Row
from rerankq_worker.model.secret_names import model_under, secret_names
from rerankq_worker.model.windows import Offsets, most_tokens, parts
from rerankq_worker.scoring import TokenIds

MIN_LENGTH_TOKENS = 16

CHARS_PER_TOKEN = 8  # generous: text holds 1 (Chinese) to 5 (English) characters a token
CHARS_AT_A_TIME = 1_000_000  # of several texts: the library makes a hundred times as many bytes of them
SETTLING_TOKENS = 64  # tokens near a cut may differ from those of the whole text; this many are thrown away


@dataclass(frozen=True, slots=True, eq=False)
class EncodedText:
    """A text's tokens: what is needed of an `Encoding`, which takes some hundred bytes for each."""

    ids: TokenIds
    offsets: Offsets


NO_OFFSETS: Offsets = np.empty((0, 2), dtype=np.int32)  # where nobody asks for them
NO_TOKENS = EncodedText(np.empty(0, dtype=np.int32), NO_OFFSETS)


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
        settling_tokens: int = SETTLING_TOKENS,
        *,
        second_segment: bool = False,
        reader: TextReader | None = None,
    ) -> None:
        """`from_model_dir` builds one.

        Args:
            frame: ids before the query, between query and document, and behind the document; complements where they
                are of the second segment.
            settling_tokens: how many at a cut may differ from those of the whole text.
            second_segment: whether the document's tokens are of it.
            reader: gives the tokenizer's ids of a text, faster.
        """
        if max_length_tokens < MIN_LENGTH_TOKENS:
            raise ValueError(
                f"expected a length of at least {MIN_LENGTH_TOKENS} tokens, got {max_length_tokens}"
            )
        self._tokenizer = tokenizer
        self._reader = reader
        self._before, self._between, behind = frame
        self._tail = np.array(behind, dtype=np.int32)
        self._frame_tokens = sum(map(len, frame))
        self.max_length_tokens = max_length_tokens
        self._settling_tokens = settling_tokens
        self._second_segment = second_segment
        # FlagReranker's cap, so that the document keeps some room
        self.max_query_tokens = min(max_length_tokens * 3 // 4, max_length_tokens - self._frame_tokens - 1)

    @classmethod
    def from_model_dir(cls, path: Path, max_length_tokens: int = 1024) -> "PairTokenizer":
        """The tokenizer of a checked model directory; the length is capped at what the model's positions hold."""
        with reading(path):
            definition = read_json_object(path / "tokenizer.json")
            family = family_of(path)
            added = read_added_tokens(path, definition, family)
            frame = frame_of(path, definition, family, added.roles)
            guarded = _guarded(added, frame)
            tokenizer, ids = _unforgeable(definition, added, guarded)
            config = read_config(path)
            _check_ids(
                path, family, definition["model"]["vocab"], added, frame, ids, config.get("vocab_size")
            )
            return cls(
                tokenizer,
                [_ids_of(marks, ids) for marks in (frame.before, frame.between, frame.behind)],
                min(max_length_tokens, family.usable_length_tokens(config)),
                _settling_tokens(definition, added),
                second_segment=frame.document_segment == 1,
                reader=quickest_reader(path, definition, tokenizer, guarded, added.tokens.keys() - guarded),
            )

    def read(self, reading: Reading) -> list[Row]:
        """One row per document, in order, or one per window of it; the query is tokenized once.

        A query longer than 3/4 of the length is cut to that; a document is cut to the room that is left, or read in
        windows of it, and to what the reading limits it to.

        Raises:
            QueryTooLong, DocumentTooLong: only with `truncation=False`, instead of cutting.
            NoInstruction
        """
        if reading.instruction is not None:
            raise NoInstruction
        query_ids, query_cut = self._query(reading.query, reading.truncation)
        room = self.max_length_tokens - self._frame_tokens - len(query_ids)
        limit = most_tokens(reading, room)
        encoded = self._encode(reading.documents, limit)
        if reading.windows:
            encoded = self._with_offsets(reading.documents, encoded, room, limit)
        too_long = [index for index, encoding in enumerate(encoded) if len(encoding.ids) > limit]
        if too_long and not reading.truncation:
            raise DocumentTooLong(too_long, limit)
        head = np.array([*self._before, *query_ids, *self._between], dtype=np.int32)
        return [
            Row(
                self._row(head, part.ids),
                query_cut or len(encoding.ids) > limit,
                document,
                part.span,
            )
            for document, encoding in enumerate(encoded)
            for part in parts(encoding, room, limit)
        ]

    def _row(self, head: TokenIds, document: TokenIds) -> TokenIds:
        placed = np.invert(document) if self._second_segment else document
        return np.concatenate([head, placed, self._tail])

    def _query(self, query: str, truncation: bool) -> tuple[TokenIds, bool]:
        limit = self.max_query_tokens
        ids = self._encode([query], limit)[0].ids
        if len(ids) > limit and not truncation:
            raise QueryTooLong(limit)
        return ids[:limit], len(ids) > limit

    def _with_offsets(
        self, texts: Sequence[str], encoded: Sequence[EncodedText], room: int, limit: int
    ) -> list[EncodedText]:
        """The same, and the characters of those that need several windows."""
        long = [index for index, tokens in enumerate(encoded) if len(tokens.ids) > room]
        told = self._encode([texts[index] for index in long], limit, with_offsets=True)
        again = dict(zip(long, told, strict=True))
        return [again.get(index, tokens) for index, tokens in enumerate(encoded)]

    def _encode(
        self, texts: Sequence[str], limit_tokens: int, *, with_offsets: bool = False
    ) -> list[EncodedText]:
        """The tokens of each text: all of them, or, where there are more than `limit_tokens`, at least one more."""
        enough_tokens = limit_tokens + self._settling_tokens
        budget_chars = enough_tokens * CHARS_PER_TOKEN
        encoded = [NO_TOKENS] * len(texts)
        waiting = list(range(len(texts)))
        while waiting:
            heads = [texts[index][:budget_chars] for index in waiting]
            for index, tokens in zip(waiting, self._encode_whole(heads, with_offsets), strict=True):
                encoded[index] = tokens
            waiting = [
                index
                for index in waiting
                if len(texts[index]) > budget_chars and len(encoded[index].ids) < enough_tokens
            ]
            budget_chars *= 4  # long words or long runs of blanks: look further
        return encoded

    def _encode_whole(self, texts: Sequence[str], with_offsets: bool) -> Iterator[EncodedText]:
        if self._reader is not None and not with_offsets:
            yield from (EncodedText(ids, NO_OFFSETS) for ids in map(self._reader, texts))
            return
        encode = self._tokenizer.encode_batch if with_offsets else self._tokenizer.encode_batch_fast
        for some in _some_at_a_time(texts, CHARS_AT_A_TIME):
            for encoding in encode(some, add_special_tokens=False):
                ids = np.array(encoding.ids, dtype=np.int32)
                offsets = np.array(encoding.offsets, dtype=np.int32) if with_offsets else NO_OFFSETS
                yield EncodedText(ids, offsets)


def _some_at_a_time(texts: Sequence[str], most_chars: int) -> Iterator[list[str]]:
    some: list[str] = []
    chars = 0
    for text in texts:
        if some and chars + len(text) > most_chars:
            yield some
            some, chars = [], 0
        some.append(text)
        chars += len(text)
    if some:
        yield some


def _guarded(added: AddedTokens, frame: Frame) -> frozenset[str]:
    """The tokens that no text may produce."""
    return added.frame.union(mark.content for mark in frame.marks if mark.content in added.tokens)


def _unforgeable(
    definition: dict[str, Any], added: AddedTokens, guarded: frozenset[str]
) -> tuple[Tokenizer, dict[str, int]]:
    """The same tokenizer, ids unchanged, to which `<s>` in a text is three characters; and the added tokens' ids."""
    secrets_of = secret_names(guarded)
    bare = {
        **definition,
        "added_tokens": [],
        "post_processor": None,
        "truncation": None,
        "padding": None,
        "model": model_under(definition["model"], secrets_of),
    }
    tokenizer = Tokenizer.from_str(json.dumps(bare))
    tokenizer.encode_special_tokens = added.splits_special
    tokenizer.add_tokens(
        [
            AddedToken(secrets_of[content], special=True) if content in guarded else token
            for content, token in added.tokens.items()
        ]
    )
    ids = {content: tokenizer.token_to_id(secrets_of.get(content, content)) for content in added.tokens}
    return tokenizer, {content: index for content, index in ids.items() if index is not None}


def _settling_tokens(definition: dict[str, Any], added: AddedTokens) -> int:
    """A cut inside an added token leaves, in its place, perhaps a token per character; so does one inside a word that
    is unknown as a whole (WordPiece).
    """
    word = definition["model"].get("max_input_chars_per_word", 0)
    return max(SETTLING_TOKENS, word) + max(map(len, added.tokens))


def _ids_of(marks: Sequence[Mark], ids: dict[str, int]) -> list[int]:
    plain = [(ids[mark.content] if mark.index is None else mark.index, mark.segment) for mark in marks]
    return [~index if segment else index for index, segment in plain]


def _check_ids(
    directory: Path,
    family: Family,
    pieces: list[Any] | dict[str, int],
    added: AddedTokens,
    frame: Frame,
    ids: dict[str, int],
    embeddings: int | None,
) -> None:
    """Refuse ids other than those the files give, which other rows of the embedding table were trained for."""
    vocabulary, last_id = len(pieces), max(pieces.values()) if isinstance(pieces, dict) else len(pieces) - 1
    declared = {content for content, _ in added.ids}
    for mark in frame.marks:
        if mark.index is None and ids[mark.content] >= vocabulary and mark.content not in declared:
            raise ModelBroken(
                f"{directory}: the tokenizer has no {mark.content} token; it is none of {family.model_type}"
            )
    named = [(m.content, m.index) for m in frame.marks if m.index is not None and m.content in ids]
    for content, said in (*added.ids, *named):
        if ids.get(content) != said:
            raise ModelBroken(
                f"{directory}: the token {content!r} gets id {ids.get(content)} where a file says {said}; "
                f"{SAVE_ANEW}"
            )
    largest = max([last_id, *ids.values(), *(m.index or 0 for m in frame.marks)])
    if embeddings is not None and largest >= embeddings:
        raise ModelBroken(
            f"{directory}: the tokenizer has ids up to {largest}, the embedding table (vocab_size) {embeddings} rows; "
            "train the model after model.resize_token_embeddings(len(tokenizer)), or serve the tokenizer it was "
            "trained with"
        )
