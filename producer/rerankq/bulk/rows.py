"""What one input row is before and after it has been understood. Knows no file format and no queue."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rerankq.contract.errors import InvalidRequest, RerankError
from rerankq.contract.messages import RerankRequest
from rerankq.estimates import pairs_of

ERROR_KEY = "rerankq_error"  # what a failed row carries beside its own fields; dropped when it is read again

FIELDS_SEEN = "; fields seen: "
SHOWN_FIELDS = 12
_CARRIED = "input_"


@dataclass(frozen=True, slots=True)
class InputRow:
    """One row as a reader understood it; nothing is validated yet."""

    source: Mapping[str, Any]
    """The row as it goes to the errors file: in input form, so that it can be mended and run again."""
    line: bytes | None = None
    """The row's own bytes, where it is a line of its own: what fails goes to the errors file as it came."""
    query: Any = None
    documents: Sequence[Any] = ()
    """Strings, or `{text, id?}`."""
    id: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the row carries beside its request; it goes to the output as it is."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Request fields that the row sets for itself."""
    relevant: Mapping[str, float] | None = None
    """Grades by document id, where the row says which documents are right."""
    size_bytes: int = 0
    first_position: int | None = None
    """Its place in the first input, where it comes from an errors file."""
    place: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """File and line, where the input is of several files."""
    error: InvalidRequest | None = None
    """Why it is no row at all."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row in its place: either a request to be sent, or the reason why there is none."""

    position: int
    """Rows before this one in the input."""
    row: InputRow
    request: RerankRequest | None
    error: RerankError | None = None

    @property
    def pairs(self) -> int:
        """Query-document pairs to be scored, about."""
        return 0 if self.request is None else pairs_of(self.request)

    @property
    def size_bytes(self) -> int:
        """About what it holds in memory."""
        return self.row.size_bytes


@dataclass(frozen=True, slots=True)
class Ranked:
    """What judgements see of a row: its documents by name, the higher the number the better."""

    query: str
    after: Mapping[str, float] | None
    """None: the row has failed."""
    before: Mapping[str, float] | None = None
    """The order the candidates came in, where it is known."""
    relevant: Mapping[str, float] | None = None
    """Grades that the row carries itself."""
    is_unread: bool = False
    """It carries judgements in no form that is known."""


def broken_row(
    source: Mapping[str, Any], reason: str, size_bytes: int, *, line: bytes | None = None, id_: Any = None
) -> InputRow:
    """A row that could not be read; its id where that is known all the same."""
    error = InvalidRequest(reason, {"field": "row"})
    return InputRow(source=source, line=line, size_bytes=size_bytes, id=id_, error=error)


def seen(fields: Mapping[str, Any]) -> str:
    """The names of the fields that a row has, to be put behind a reason; never what they hold."""
    names = ", ".join(sorted(map(str, fields))[:SHOWN_FIELDS])
    return f"{FIELDS_SEEN}{names}" if names else ""


def document_key(entry_id: str | None, index: int) -> str:
    """What a document is called in judgements: its own id, else its place."""
    return str(index) if entry_id is None else entry_id


def place_of(entry: Entry) -> int:
    """The row's place in the first input, also when it comes from an errors file."""
    return entry.position if entry.row.first_position is None else entry.row.first_position


def name_of_row(entry: Entry) -> str:
    """What a row is called in judgements, tables and TREC runs: its own id, else its place."""
    return str(place_of(entry) if entry.row.id is None else entry.row.id)


def by_place(names: Sequence[str]) -> dict[str, float]:
    """Best first, as numbers that fall; of a name that is there twice the better place counts."""
    return {name: float(-place) for place, name in reversed(list(enumerate(names)))}


def may_leave_out(options: Mapping[str, Any]) -> bool:
    """Whether a ranking that was asked so may have fewer results than documents."""
    return any(options.get(name) is not None for name in ("top_n", "score_threshold"))


def text_at(entry: Entry, index: int) -> str:
    """The text of a document, from the caller's own copy."""
    if entry.request is None:
        raise RuntimeError("This is a bug: an answer to a row that was never asked")
    document = entry.request.documents[index]
    return document if isinstance(document, str) else document.text


def beside(name: str, ours: Container[str]) -> str:
    """What the output calls a thing that the input carried: by its name, unless that is one of ours.

    Also where it is `input_` before one of ours, or `input_rank` would be there twice beside a `rank`.
    """
    bare = name
    while bare.startswith(_CARRIED):
        bare = bare.removeprefix(_CARRIED)
    return f"{_CARRIED}{name}" if bare in ours else name
