"""What crosses the queue: a `RerankRequest` in, a `Ranking` out.

Both sides validate. Error messages name fields, positions and sizes, never a user's text.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Protocol,
    SupportsIndex,
    TypedDict,
    TypeVar,
    overload,
)

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from rerankq.contract.errors import InvalidRequest, PayloadTooLarge

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

CONTRACT_VERSION = 2
OPTIONS_SINCE_VERSION_2 = ("instruction", "score_threshold", "long_documents", "max_windows_per_doc")

LONGEST_MODEL_NAME = 256
_SHOWN = 10  # results in a ranking's repr, and of each text so many characters
_SHOWN_CHARACTERS = 40

Lane = Literal["interactive", "bulk"]
LANES: tuple[Lane, ...] = ("interactive", "bulk")
LongDocuments = Literal["truncate", "windows"]

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)
_ANSWER = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


def _sendable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"expected text that utf-8 can carry, got a lone surrogate at character {error.start}"
        ) from None
    return text


def _model_name(text: str) -> str:
    if not is_model_name(text):
        raise ValueError(
            f"expected a name of 1 to {LONGEST_MODEL_NAME} characters that can be printed, got {len(text)} characters"
        )
    return text


def is_model_name(value: Any) -> bool:
    """Whether jobs may name a model so."""
    return isinstance(value, str) and 1 <= len(value) <= LONGEST_MODEL_NAME and value.isprintable()


def _whole(value: Any) -> Any:
    """numpy's integers as Python's; what is none is left for the type to refuse."""
    return value if isinstance(value, bool) or not isinstance(value, Integral) else int(value)


def _real(value: Any) -> Any:
    return value if isinstance(value, bool) or not isinstance(value, Real) else _as_float(value)


def _as_float(number: Any) -> float:
    """Python's own; infinite where it is too large for one, and NaN where it says that it is none."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
    except ValueError:  # Decimal("sNaN")
        return math.nan


def as_seconds(timeout: Any) -> float:
    """A caller's `timeout` as a plain number: in numpy's float32 a time of day is minutes off.

    Raises:
        InvalidRequest: it is no number of seconds.
    """
    seconds = (
        None if isinstance(timeout, bool) or not isinstance(timeout, Real | Decimal) else _as_float(timeout)
    )
    if seconds is None or math.isnan(seconds):
        got = "NaN" if seconds is not None else _kind(timeout)
        raise InvalidRequest(f"timeout: expected a number of seconds, got {got}", {"field": "timeout"})
    return seconds


def _unless_blank(text: str | None) -> str | None:
    return text if text and text.strip() else None


def _name(value: Any) -> Any:
    whole = _whole(value)
    return str(whole) if type(whole) is int else value


def ordered(documents: Any) -> list[Any]:
    """The caller's documents as a list: of a list, a tuple, an array, a column or an iterator.

    Raises:
        ValueError: they are one text, or have no order that an index could mean.
    """
    listed: Any = documents
    # of numpy, of pandas and polars, of Arrow: iterating would give no plain strings
    for name in ("tolist", "to_list", "to_pylist"):
        if hasattr(documents, name):
            listed = getattr(documents, name)()
            break
    if isinstance(listed, str | bytes | bytearray):
        raise ValueError("expected a list of strings, got one string")
    if not isinstance(listed, Sequence | Iterator):
        raise ValueError(
            f"expected a list of strings or {{text, id}}, got {_kind(documents)}; put them in a list, in their order"
        )
    return list(listed)  # pyright: ignore[reportUnknownArgumentType] - its elements are validated next


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


_Item = TypeVar("_Item", covariant=True)


class ListLike(Protocol[_Item]):
    """A list, a tuple, an array or a column of any library; to a type checker neither a string nor a dict or a set."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[_Item]: ...
    def __contains__(self, value: object, /) -> bool: ...
    def __getitem__(self, index: int, /) -> _Item: ...


Text = Annotated[str, AfterValidator(_sendable)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=1_000_000_000)]


class Document(BaseModel):
    """One candidate: its text and, if the caller likes, a name of its own."""

    model_config = _STRICT

    text: Text
    id: Annotated[Text | None, BeforeValidator(_name)] = None
    """A string; of an integer its digits."""


Documents = ListLike[str | Document | dict[str, Any]] | Iterator[str | Document | dict[str, Any]]
"""The candidates: texts, or texts with names (`Document`, `{"text": …, "id": …}`); their order gives each its index."""


class RequestOptions(TypedDict, total=False):
    """What may be asked of a ranking: the fields of `RerankRequest` but its query, its documents and its version."""

    top_n: int | None
    return_documents: bool
    max_tokens_per_doc: int | None
    truncation: bool
    raw_scores: bool
    model: str | None
    deadline: float | None
    on_deadline: Literal["fail", "partial"]
    lane: Lane
    instruction: str | None
    score_threshold: float | None
    long_documents: LongDocuments
    max_windows_per_doc: int | None


class RerankRequest(BaseModel):
    """What is asked: one query and the candidate documents to order by relevance."""

    model_config = _STRICT

    query: Text
    documents: Annotated[list[Text | Document], BeforeValidator(ordered)]
    top_n: Count | None = None
    """How many results to send back; all when absent."""
    return_documents: bool = False
    """Fill `document` in each result from the caller's own copy; documents never travel back."""
    max_tokens_per_doc: Count | None = None
    """Read only this many tokens of each document."""
    truncation: bool = True
    """False: a document that is too long is an error for the whole job, named by its index."""
    raw_scores: bool = False
    """`relevance_score` is the logit itself rather than what the model makes of it, most a sigmoid."""
    model: Annotated[str, AfterValidator(_model_name)] | None = None
    """Its name, or `name@revision`: the job waits for a worker of this model; any worker's will do when absent."""
    deadline: Annotated[float, BeforeValidator(_real), Field(allow_inf_nan=False)] | None = None
    """Unix seconds after which the answer is of no use: by the caller's own clock where a request is made, by Redis's
    in the message."""
    on_deadline: Literal["fail", "partial"] = "fail"
    """At the deadline: fail, or answer with what has been scored."""
    lane: Lane = "interactive"
    instruction: Annotated[Text | None, AfterValidator(_unless_blank)] = None
    """What makes a document relevant, for models that read one (Qwen3-Reranker); refused by those that do not."""
    score_threshold: Annotated[float, BeforeValidator(_real), Field(allow_inf_nan=False)] | None = None
    """Leave out results whose `relevance_score` is below this; `scored` and `total` still count them."""
    long_documents: LongDocuments = "truncate"
    """Of a document that is longer than the model reads: the beginning, or all of it in overlapping windows, the best
    of which gives the document its score."""
    max_windows_per_doc: Count | None = None
    """Read at most this many windows of each document, from its beginning; all when absent. Whoever says so asks for
    windows, unless `long_documents` says otherwise."""
    version: int | None = None
    """Of the contract; absent: the least that can read the request."""

    @model_validator(mode="before")
    @classmethod
    def _windows_are_asked_for(cls, fields: Any) -> Any:
        is_implied = isinstance(fields, Mapping) and "long_documents" not in fields
        if is_implied and fields.get("max_windows_per_doc") is not None:
            return {**fields, "long_documents": "windows"}
        return fields

    @field_validator("query")
    @classmethod
    def _query_is_not_empty(cls, query: str) -> str:
        if not query.strip():
            raise ValueError("expected a query, got an empty string")
        return query

    @field_validator("documents")
    @classmethod
    def _documents_are_not_empty(cls, documents: list[str | Document]) -> list[str | Document]:
        if not documents:
            raise ValueError("expected at least one document, got an empty list")
        return documents

    @field_validator("version")
    @classmethod
    def _version_is_spoken(cls, version: int | None) -> int | None:
        if version is not None and not 1 <= version <= CONTRACT_VERSION:
            raise ValueError(
                f"expected contract version 1 to {CONTRACT_VERSION}, got {version}; upgrade the older side"
            )
        return version

    @property
    def texts(self) -> list[str]:
        """The documents' texts, in the caller's order."""
        return [document if isinstance(document, str) else document.text for document in self.documents]

    @property
    def ids(self) -> list[str | None]:
        """The documents' own names, in the caller's order."""
        return [None if isinstance(document, str) else document.id for document in self.documents]

    @property
    def characters(self) -> int:
        """Characters of the query and of every document together."""
        return len(self.query) + sum(map(len, self.texts))

    def summary(self) -> str:
        """What an operator may see of it: counts, never text."""
        top_n = "all" if self.top_n is None else self.top_n
        return f"docs={len(self.documents)} chars={thousands(self.characters)} top_n={top_n}"

    def to_wire(self) -> dict[str, Any]:
        """As plain JSON; what is at its default stays at home, and a version that every worker speaks."""
        fields = self.model_dump(exclude_defaults=True, exclude={"return_documents", "version"})
        if self.long_documents == "truncate":  # who reads it would take windows for asked for
            fields.pop("max_windows_per_doc", None)
        is_new = any(name in fields for name in OPTIONS_SINCE_VERSION_2)
        return {**fields, "version": CONTRACT_VERSION} if is_new else fields


def thousands(count: int) -> str:
    """45321 as `45k`."""
    return str(count) if count < 1000 else f"{count // 1000}k"


@dataclass(frozen=True, slots=True)
class Limits:
    """How large one request may be."""

    max_documents: int
    max_document_characters: int
    max_request_characters: int

    def check(self, request: RerankRequest) -> None:
        """Refuse a request over a limit.

        Raises:
            PayloadTooLarge: naming the limit, the value and the document.
        """
        self._refuse("documents", len(request.documents), self.max_documents, "split the job")
        for name, text in (("query", request.query), ("instruction", request.instruction or "")):
            self._refuse(f"{name} characters", len(text), self.max_document_characters, f"shorten the {name}")
        for index, text in enumerate(request.texts):
            if len(text) > self.max_document_characters:
                self._refuse(
                    f"characters in documents[{index}]",
                    len(text),
                    self.max_document_characters,
                    "split the document",
                )
        self._refuse("characters in all", request.characters, self.max_request_characters, "split the job")

    def _refuse(self, what: str, value: int, limit: int, way_out: str) -> None:
        if value > limit:
            raise PayloadTooLarge(
                f"expected at most {limit:,} {what}, got {value:,}; {way_out}",
                {"limit": limit, "value": value},
            )


class Window(BaseModel):
    """The part of a long document that its score is of."""

    model_config = _ANSWER

    index: int
    """Counted from 0."""
    total: int
    """How many windows of the document were read."""
    start: int
    """The first of its characters."""
    end: int
    """The one behind its last."""


class RankedDocument(BaseModel):
    """One document's place in the ranking."""

    model_config = _ANSWER

    index: int
    """Position in the request's `documents`."""
    relevance_score: float | None
    """On the model's own scale, for most 0..1 (sigmoid of the logit), or the logit when raw scores were asked for; None
    when unscored."""
    logit: float | None
    """Raw float32 logit; None when unscored."""
    truncated: bool = False
    """The model read only the beginning of this document."""
    window: Window | None = None
    """Where the document was read in several windows: the best one."""
    id: str | None = None
    document: str | None = None

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        shown = {**self.__dict__, "document": None if self.document is None else _cut(self.document)}
        return iter([(name, value) for name, value in shown.items() if value is not None])

    @property
    def scored(self) -> bool:
        """Whether the model read this document at all."""
        return self.logit is not None

    def told(self) -> str:
        """On one line: its score, its index, its name and the beginning of its text."""
        score = "     -" if self.relevance_score is None else f"{self.relevance_score:6.4f}"
        parts = [score, f"[{self.index}]", self.id, None if self.document is None else _cut(self.document)]
        return "  ".join(part for part in parts if part is not None)


class Usage(BaseModel):
    """What the job cost."""

    model_config = _ANSWER

    pairs: int = 0
    """Rows that the model reads: one per document, more where one is read in windows."""
    tokens: int = 0
    cached_pairs: int = 0
    """Pairs whose score was known already (an earlier attempt's checkpoint)."""
    duplicate_pairs: int = 0
    """Pairs that are equal, token for token, to an earlier one of their job, or pack, and were scored with it."""
    truncated_documents: int = 0


class Timings(BaseModel):
    """Where the job's time went, in seconds."""

    model_config = _ANSWER

    queued_seconds: float = 0.0
    tokenize_seconds: float = 0.0
    score_seconds: float = 0.0
    total_seconds: float = 0.0


class WorkerInfo(BaseModel):
    """Who answered, on what."""

    model_config = _ANSWER

    name: str
    device: str
    dtype: str
    engine: str = ""
    """`packed` or `sentence-transformers`; empty in the words of an older worker."""


class ModelInfo(BaseModel):
    """Which weights gave the scores."""

    model_config = _ANSWER

    name: str
    revision: str


class Ranking(BaseModel):
    """The answer: results best first; ties keep the caller's order. It is a sequence of them, too."""

    model_config = _ANSWER

    id: str
    model: ModelInfo
    results: list[RankedDocument]
    complete: bool
    """Every document was scored."""
    scored: int
    total: int
    usage: Usage
    timings: Timings
    worker: WorkerInfo

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[RankedDocument]:  # type: ignore[override]  # pydantic iterates over fields
        return iter(self.results)

    @overload
    def __getitem__(self, place: SupportsIndex) -> RankedDocument: ...
    @overload
    def __getitem__(self, place: slice) -> list[RankedDocument]: ...
    def __getitem__(self, place: SupportsIndex | slice) -> RankedDocument | list[RankedDocument]:
        return self.results[place]

    def __repr__(self) -> str:
        lines = [
            f"{place:>4}  {result.told()}" for place, result in enumerate(self.results[:_SHOWN], start=1)
        ]
        more = [f"   … and {len(self) - _SHOWN} more"] if len(self) > _SHOWN else []
        model, worker = self.model.name, self.worker
        head = f"Ranking of {self.total} documents, {self.scored} scored by {model} on {worker.device} {worker.dtype}"
        return "\n".join([head, *lines, *more])

    __str__ = __repr__

    def texts(self, documents: Documents | None = None) -> list[str]:
        """The documents' texts, best first.

        Args:
            documents: those that were asked; not needed where `return_documents=True` was.

        Raises:
            InvalidRequest: they are needed, or are not those that were asked.
        """
        if documents is None:
            found = [result.document for result in self.results if result.document is not None]
            if len(found) == len(self.results):
                return found
            raise InvalidRequest(
                "documents: the ranking carries no text; give those that were asked, or ask with return_documents=True",
                {"field": "documents"},
            )
        given = parse_request({"query": "any", "documents": documents}).texts
        if len(given) != self.total:
            raise InvalidRequest(
                f"documents: expected the {self.total} that were asked, got {len(given)}",
                {"field": "documents"},
            )
        return [given[result.index] for result in self.results]

    def rows(self) -> list[dict[str, Any]]:
        """One row per result, best first, for `pandas.DataFrame(ranking.rows())` or a CSV writer."""
        return [{"rank": place, **result.model_dump()} for place, result in enumerate(self.results, start=1)]

    def summary(self) -> str:
        """What an operator may see of it."""
        seconds = self.timings.score_seconds
        return f"scored={self.scored}/{self.total} tokens={thousands(self.usage.tokens)} score={seconds:.3f}s"

    def with_documents(self, texts: Sequence[str]) -> "Ranking":
        """The same ranking, each result carrying its text from the caller's own copy."""
        filled = [result.model_copy(update={"document": texts[result.index]}) for result in self.results]
        return self.model_copy(update={"results": filled})


def _cut(text: str) -> str:
    line = " ".join(text[: 2 * _SHOWN_CHARACTERS].split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[:_SHOWN_CHARACTERS]}…"


def parse_request(fields: Mapping[str, Any]) -> RerankRequest:
    """A validated request from plain JSON or keyword arguments.

    Raises:
        InvalidRequest: naming the field and what is wrong with it, in one line.
    """
    try:
        return RerankRequest.model_validate(dict(fields))
    except ValidationError as error:
        raise _as_invalid_request(error) from None  # pydantic's own text may carry the input


def _as_invalid_request(error: ValidationError) -> InvalidRequest:
    problems = error.errors(include_url=False, include_input=False)
    # First of all that the other side is newer, and may have fields that are not known here. Of a union's complaints
    # the deepest says most, and of a misspelt field its name rather than the one it should have.
    first = max(
        problems,
        key=lambda problem: (
            problem["loc"] == ("version",),
            len(problem["loc"]),
            problem["type"] == "extra_forbidden",
        ),
    )
    field = _field_name(first["loc"])
    others = {_field_name(problem["loc"]) for problem in problems} - {field}
    more = f" (and {len(others)} more fields)" if others else ""
    return InvalidRequest(f"{field}: {_reason(first, field)}{more}", {"field": field})


def _reason(problem: "ErrorDetails", field: str) -> str:
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] == "extra_forbidden":
        where, _, name = field.rpartition(".")
        known = list((Document if where else RerankRequest).model_fields)
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        return f"no such field; {meant}"
    if re.fullmatch(r"documents\[\d+\]", field) and problem["type"] != "value_error":
        return "expected a string or {text, id}"
    return problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")


_UNION_BRANCHES = ("function-after[_sendable(), str]", "Document")


def _shown(name: str) -> str:
    """A field's name; what may be a text that a caller took for one is not told."""
    return name if re.fullmatch(r"[\w-]{1,40}", name, re.ASCII) else "…"


def _field_name(location: Sequence[int | str]) -> str:
    parts = [part for part in location if part not in _UNION_BRANCHES]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{_shown(part)}" for part in parts)
    return name.removeprefix(".") or "request"
