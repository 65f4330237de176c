"""How a model that CrossEncoder loads reads a query and its documents: as it does, but that no text forges a token.

A pair of texts is framed by the tokenizer's own post-processor, or by the model's chat template. Knows tokenizers; no
tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding

from rerankq_worker.engine.chat_template import Template
from rerankq_worker.engine.unforgeable_tokenizer import settling_tokens, under_secret_names
from rerankq_worker.model.files import ModelBroken
from rerankq_worker.model.reading import (
    DocumentTooLong,
    InstructionTooLong,
    NoInstruction,
    QueryTooLong,
    Reading,
    Row,
    Span,
)
from rerankq_worker.model.tokenizer import (
    CHARS_PER_TOKEN,
    MIN_LENGTH_TOKENS,
    EncodedText,
    PairTokenizer,
)
from rerankq_worker.model.windows import Part, most_tokens, parts
from rerankq_worker.scoring import EngineError

FILLERS = ("0", "1 2 3 4")  # CrossEncoder's own: what follows both alike is the template's


def read_by(directory: Path, cross_encoder: Any, max_length_tokens: int) -> "PromptedPairs | TemplateReader":
    """The reader of a loaded CrossEncoder; the length is capped at what the model can.

    Raises:
        ModelBroken: there is none that would read as CrossEncoder does.
    """
    tokenizer, first = cross_encoder.tokenizer, cross_encoder[0]
    if not getattr(tokenizer, "is_fast", False):
        raise ModelBroken(
            f"{directory}: {type(tokenizer).__name__} is no tokenizer of the tokenizers library, and no other is served"
        )
    length = min(max_length_tokens, _usable_length_tokens(cross_encoder))
    prompts: dict[str, str] = cross_encoder.prompts or {}
    default = prompts.get(cross_encoder.default_prompt_name) or ""
    if "message" in first.modality_config:
        return TemplateReader(Template.of(directory, first), length, default)
    pairs = _pair_tokenizer(directory, tokenizer, length)
    return PromptedPairs(pairs, default, tokenizer.pad_token_id, takes_prompts=any(prompts.values()))


def _usable_length_tokens(cross_encoder: Any) -> int:
    """What tokenizer, files and positions of the model allow; RoBERTa's kin count positions from behind padding's."""
    first, config = cross_encoder[0], cross_encoder.config
    saved = first.processing_kwargs.get("text", {}).get("max_length")
    allowed = [int(length) for length in (first.max_seq_length, saved) if length]
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions and positions > 0:
        allowed.append(positions - first._infer_flatten_position_offset())  # nobody else knows it
    return min(allowed)


class PromptedPairs:
    """Pairs of texts, the query behind a prompt where the model was saved with some."""

    def __init__(self, pairs: PairTokenizer, default: str, padding: int, *, takes_prompts: bool) -> None:
        """
        Args:
            default: the prompt where none is given.
            padding: the token of a row that has none, as of two empty texts without a frame.
        """
        self._pairs = pairs
        self._empty = np.array([padding], dtype=np.int32)
        self._default = default
        self._takes_prompts = takes_prompts
        self.max_length_tokens = pairs.max_length_tokens

    def read(self, reading: Reading) -> list[Row]:
        """As `Reader` says.

        Raises:
            Unreadable
        """
        if reading.instruction is not None and not self._takes_prompts:
            raise NoInstruction
        prompt = self._default if reading.instruction is None else reading.instruction
        rows = self._pairs.read(replace(reading, query=prompt + reading.query, instruction=None))
        return [row if len(row.token_ids) else replace(row, token_ids=self._empty) for row in rows]


def _pair_tokenizer(directory: Path, tokenizer: Any, length: int) -> PairTokenizer:
    """The frame of a pair as the tokenizer's post-processor makes it."""
    tells_segments = "token_type_ids" in tokenizer.model_input_names
    probe = tokenizer("a", "b", return_token_type_ids=True)
    whose: list[int | None] = probe.sequence_ids(0)
    types: list[int] = probe["token_type_ids"] if tells_segments else [0] * len(whose)
    if max(types) > 1:
        raise ModelBroken(
            f"{directory}: its tokenizer tells more than two segments apart, which is not served"
        )
    first, second = _place_of(whose, 0), _place_of(whose, 1)
    ids = [~token if kind else token for token, kind in zip(probe["input_ids"], types, strict=True)]
    frame = ids[: first.start], ids[first.stop : second.start], ids[second.stop :]
    roles = {token for token in tokenizer.special_tokens_map.values() if isinstance(token, str)}
    framing = [~token if token < 0 else token for part in frame for token in part]
    names = {*roles, *tokenizer.convert_ids_to_tokens(framing)}
    unforgeable, _ = under_secret_names(tokenizer, names)
    return PairTokenizer(
        unforgeable,
        frame,
        length,
        settling_tokens(tokenizer),
        second_segment=types[second.start] == 1,
    )


def _place_of(whose: Sequence[int | None], sequence: int) -> slice:
    start = whose.index(sequence)
    return slice(start, start + whose.count(sequence))


class TemplateReader:
    """Pairs in a chat template; safe to share between threads, since nothing in it changes after it was built."""

    def __init__(self, template: Template, max_length_tokens: int, default: str) -> None:
        """
        Args:
            default: the instruction where none is given.
        """
        self._template = template
        self._default = default
        self.max_length_tokens = max_length_tokens

    def refuse_short(self) -> None:
        """
        Raises:
            EngineError: the length leaves no room for texts.
        """
        room = self._room_beside(self._default)
        if room < MIN_LENGTH_TOKENS:
            raise EngineError(
                f"RERANKQ_MAX_LENGTH_TOKENS={self.max_length_tokens} leaves {max(0, room)} tokens for texts beside the "
                f"model's chat template, expected at least {MIN_LENGTH_TOKENS}; raise it"
            )

    def read(self, reading: Reading) -> list[Row]:
        """One row per document, in order, or one per window of it.

        A query longer than 3/4 of the length is cut to that; a document is cut so that what the template puts behind
        it stays, as CrossEncoder does.

        Raises:
            Unreadable
        """
        instruction = self._instruction(reading)
        query, query_cut = self._query(reading, instruction)
        texts = [self._template.trimmed("document", text) for text in reading.documents]
        frames = {there: self._frame(query, instruction, there) for there in {bool(text) for text in texts}}
        enough = most_tokens(reading, self.max_length_tokens)
        encoded = self._encode([frames[bool(text)] for text in texts], texts, enough)
        read = [
            self._windows(frames[bool(text)], encoding, text, reading)
            if reading.windows
            else self._row(frames[bool(text)], encoding, len(text), enough)
            for text, encoding in zip(texts, encoded, strict=True)
        ]
        too_long = [index for index, (_, was_cut) in enumerate(read) if was_cut]
        if too_long and not reading.truncation:
            room = self.max_length_tokens - frames[True].tokens
            raise DocumentTooLong(too_long, most_tokens(reading, room))
        return [
            Row(
                part.ids,
                query_cut or was_cut,
                document,
                self._in_given(part.span, reading.documents[document]),
            )
            for document, (found, was_cut) in enumerate(read)
            for part in found
        ]

    def _in_given(self, span: Span | None, text: str) -> Span | None:
        """The span of a text that may have been trimmed, in the caller's own."""
        if span is None or "document" not in self._template.trims:
            return span
        before = len(text) - len(text.lstrip())
        return replace(span, start=span.start + before, end=span.end + before)

    def _instruction(self, reading: Reading) -> str:
        if reading.instruction is None:
            return self._default
        if reading.instruction and not self._template.takes_instructions():
            raise NoInstruction
        if self._room_beside(reading.instruction) < MIN_LENGTH_TOKENS:
            raise InstructionTooLong(self.max_length_tokens)
        return reading.instruction

    def _room_beside(self, instruction: str) -> int:
        before, behind = self._template.around("", instruction, has_document=True)
        return self.max_length_tokens - len(self._template.tokenizer.encode(before + behind).ids)

    def _query(self, reading: Reading, instruction: str) -> tuple[str, bool]:
        """As much of the query as it may have, and whether that is less than all."""
        limit = min(self.max_length_tokens * 3 // 4, self._room_beside(instruction) - 1)
        head_chars = (limit + self._template.settling_tokens) * CHARS_PER_TOKEN
        while True:
            encoding = self._template.tokenizer.encode(reading.query[:head_chars])
            if len(encoding.ids) >= limit + self._template.settling_tokens or head_chars >= len(
                reading.query
            ):
                break
            head_chars *= 4
        if len(encoding.ids) <= limit:
            return reading.query, False
        if not reading.truncation:
            raise QueryTooLong(limit)
        return reading.query[: encoding.offsets[limit - 1][1]], True

    def _frame(self, query: str, instruction: str, has_document: bool) -> "_Frame":
        before, behind = self._template.around(query, instruction, has_document=has_document)
        first, second = (
            encoding.ids
            for encoding in self._template.tokenizer.encode_batch(
                [before + filler + behind for filler in FILLERS]
            )
        )
        same = sum(
            1
            for _ in takewhile(
                lambda both: both[0] == both[1], zip(reversed(first), reversed(second), strict=False)
            )
        )
        return _Frame(before, behind, first[len(first) - same :], len(first) - 1)

    def _encode(self, frames: Sequence["_Frame"], texts: Sequence[str], limit: int) -> list[Encoding]:
        """Each document in its frame: all of it, or, of what is too long for a row, more than a row holds."""
        encoded: dict[int, Encoding] = {}
        waiting = list(range(len(texts)))
        enough_tokens = limit + self._template.settling_tokens
        budget_chars = enough_tokens * CHARS_PER_TOKEN
        while waiting:
            heads = [
                frames[index].before
                + texts[index][:budget_chars]
                + (frames[index].behind if len(texts[index]) <= budget_chars else "")
                for index in waiting
            ]
            encoded |= zip(waiting, self._template.tokenizer.encode_batch(heads), strict=True)
            waiting = [
                index
                for index in waiting
                if len(texts[index]) > budget_chars
                and len(encoded[index].ids) < frames[index].tokens + enough_tokens
            ]
            budget_chars *= 4  # long words or long runs of blanks: look further
        return [encoded[index] for index in range(len(texts))]

    def _row(
        self, frame: "_Frame", encoding: Encoding, characters: int, limit: int
    ) -> tuple[list[Part], bool]:
        """The ids of a row, and whether the document lost some of its own."""
        ids, length = encoding.ids, self.max_length_tokens
        room = length - len(frame.suffix)
        if len(ids) < length and limit >= length:
            return [_part(ids)], False
        first, beyond = _document_in(encoding, len(frame.before), characters) if limit < length else (0, 0)
        is_cut = len(ids) > length or beyond - first > limit
        if not is_cut and len(ids) < length:
            return [_part(ids)], False
        return [_part(ids[: min(room, first + limit)] + frame.suffix)], is_cut

    def _windows(
        self, frame: "_Frame", encoding: Encoding, text: str, reading: Reading
    ) -> tuple[list[Part], bool]:
        """The ids of a row for each window, and whether the document is longer than they are together."""
        first, beyond = _document_in(encoding, len(frame.before), len(text))
        room = self.max_length_tokens - first - len(frame.suffix)
        limit = most_tokens(reading, room)
        is_cut = beyond - first > limit
        if len(encoding.ids) <= self.max_length_tokens and not is_cut:
            return self._row(frame, encoding, len(text), self.max_length_tokens)
        ids = np.array(encoding.ids, dtype=np.int32)
        # a token of the frame's end and the text's beginning is the text's, as far as it is of it
        offsets = np.clip(np.array(encoding.offsets, dtype=np.int32) - len(frame.before), 0, len(text))
        document = EncodedText(ids[first:beyond], offsets[first:beyond])
        suffix = np.array(frame.suffix, dtype=np.int32)
        found = parts(document, room, limit)
        return [Part(np.concatenate([ids[:first], part.ids, suffix]), part.span) for part in found], is_cut


def _part(ids: list[int]) -> Part:
    return Part(np.array(ids, dtype=np.int32))


def _document_in(encoding: Encoding, start: int, characters: int) -> tuple[int, int]:
    """Where a document's tokens begin and end that stands behind `start` characters."""
    offsets = encoding.offsets
    first = next((index for index, (_, stop) in enumerate(offsets) if stop > start), len(offsets))
    rest = enumerate(offsets[first:], first)
    return first, next((index for index, (begin, _) in rest if begin >= start + characters), len(offsets))


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a template puts around one query's documents."""

    before: str
    behind: str
    suffix: list[int]
    """The tokens behind a document that was cut."""
    tokens: int
    """All that are not the document's."""
