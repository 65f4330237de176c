"""What is read, a query and its documents, and what becomes of it: rows of token ids. Knows no tokenizer, no socket."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rerankq_worker.scoring import TokenIds


class Unreadable(ValueError):
    """This cannot be read as it was asked. Its words are about counts, never of a text."""

    field = "documents"
    """What of the request is to blame."""


class InputTooLong(Unreadable):
    """A text is longer than allowed and `truncation=False` was asked for."""


class QueryTooLong(InputTooLong):
    """The query alone is longer than its share."""

    field = "query"

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


class NoInstruction(Unreadable):
    """The model has no place for an instruction."""

    field = "instruction"

    def __str__(self) -> str:
        return (
            "this model reads no instruction; leave it out, or ask a model that does, such as Qwen3-Reranker"
        )


class InstructionTooLong(Unreadable):
    """The instruction leaves no room for texts."""

    field = "instruction"

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"the instruction leaves no room in a row of {self.limit} tokens; shorten it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is to be read, and how."""

    query: str
    documents: Sequence[str]
    max_tokens_per_doc: int | None = None
    truncation: bool = True
    """False: raise rather than cut."""
    instruction: str | None = None
    windows: bool = False
    """Read the whole of a long document, in overlapping windows."""
    max_windows_per_doc: int | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A window's place in its document."""

    index: int
    total: int
    start: int
    """The first of its characters."""
    end: int


@dataclass(frozen=True, slots=True)
class Row:
    """The query and one document, or a window of it, tokenized."""

    token_ids: TokenIds
    truncated: bool
    """Whether the query or the document lost tokens."""
    document: int
    """Which of the documents."""
    span: Span | None = None
    """Where the document was read in several windows."""


class Reader(Protocol):
    """A model's way to read; safe to share between threads."""

    def read(self, reading: Reading) -> list[Row]:
        """At least one row per document, in order.

        Raises:
            Unreadable
        """
        ...
