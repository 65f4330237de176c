"""Texts by id, as a TREC run needs them: of a corpus or of queries, as lines of JSON or between tabs. Told by what
stands there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from rerankq.bulk.formats.fields import chosen, id_at, text_at, titled_text_at
from rerankq.bulk.formats.inputs import Input
from rerankq.bulk.formats.names import USUAL_NAMES, FieldNames, Names
from rerankq.bulk.rows import seen
from rerankq.contract import wire
from rerankq.contract.errors import InvalidRequest

_HEADERLESS: Mapping[int, tuple[str, ...]] = {2: ("_id", "text"), 4: ("_id", "url", "title", "text")}
"""What MS MARCO's passages, queries and documents have in their columns."""


Place = tuple[str, int]
"""A file and the number of a line."""


@dataclass(frozen=True, slots=True)
class Naming:
    """What the fields of such a file are called."""

    id: Names
    text: Names
    read_text: Callable[[Mapping[str, Any], Names], Any]

    @classmethod
    def of_documents(cls, names: FieldNames) -> Self:
        """BEIR's, Anserini's and MS MARCO's, a title standing before its text; or the caller's."""
        ids = names.document_id if len(names.document_id) == 1 else ("_id", *USUAL_NAMES.document_id)
        return cls(ids, names.text, titled_text_at)

    @classmethod
    def of_queries(cls, names: FieldNames) -> Self:
        """BEIR's, Anserini's and MS MARCO's; or the caller's."""
        ids = names.id if len(names.id) == 1 else ("_id", *USUAL_NAMES.id)
        texts = names.query if len(names.query) == 1 else ("text", *USUAL_NAMES.query, "contents", "title")
        return cls(ids, texts, text_at)


def texts_of(input_: Input, naming: Naming) -> Iterator[tuple[str, str]]:
    """Id and text, one by one."""
    is_json = (input_.first_line() or b"{").startswith(b"{")
    for place, fields in _objects(input_) if is_json else _between_tabs(input_, naming):
        name, text = id_at(fields, naming.id), naming.read_text(fields, naming.text)
        if name is None or not isinstance(text, str):
            raise _unfit(place, f"expected an id and a text{seen(fields)}")
        yield str(name), text


def _objects(input_: Input) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    for line in input_.lines():
        try:
            fields = wire.decode(line)
        except ValueError:
            fields = None
        yield (input_.at.path, input_.line), fields if isinstance(fields, dict) else {}


def _between_tabs(input_: Input, naming: Naming) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    for part in input_.in_turn():
        with part.stream() as stream:
            names: Sequence[str] = ()
            for number, line in enumerate(stream, start=1):
                if line.isspace():
                    continue
                columns = _split(line, (part.path, number))
                if not names:
                    names, is_header = _names_of(columns, naming, (part.path, number))
                    if is_header:
                        continue
                if len(columns) != len(names):
                    raise _unfit((part.path, number), f"expected {len(names)} columns, got {len(columns)}")
                yield (part.path, number), dict(zip(names, columns, strict=True))


def _split(line: bytes, place: Place) -> list[str]:
    try:
        return line.decode().rstrip("\r\n").split("\t")
    except UnicodeDecodeError as error:
        raise _unfit(place, f"expected text in utf-8: {error.reason}") from error


def _names_of(columns: list[str], naming: Naming, place: Place) -> tuple[Sequence[str], bool]:
    """What the columns are called, and whether this first line says so itself."""
    line = dict.fromkeys(columns, "")
    if chosen(line, naming.id) is not None and chosen(line, naming.text) is not None:
        return columns, True
    names = _HEADERLESS.get(len(columns))
    if names is None or ("url" in names and "://" not in columns[names.index("url")]):
        raise _unfit(place, f"cannot tell id and text among {len(columns)} columns without a header")
    return (naming.id[0], *names[1:-1], naming.text[0]), False


def _unfit(place: Place, what: str) -> InvalidRequest:
    path, number = place
    return InvalidRequest(
        f"line {number} of {path}: {what}; corpus and queries are JSON lines as {{_id, title, text}} or "
        "{id, contents}, or between tabs: id and text; id, url, title and text; or named by a header",
        {"line": number},
    )
