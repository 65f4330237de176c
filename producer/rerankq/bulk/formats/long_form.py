"""One line per document, of whatever file: equal neighbours in the query id make one request. Opens nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from rerankq.bulk.formats.fields import chosen, grades, paths, value_at
from rerankq.bulk.formats.names import RELEVANT_KEY, TABLE_NAMES, USUAL_NAMES, FieldNames, Names
from rerankq.bulk.formats.on_disk import SeenIds
from rerankq.bulk.rows import InputRow, broken_row, document_key
from rerankq.contract.errors import InvalidRequest

COLUMNS_KEY = "columns"  # where a row keeps what its documents' lines carry besides text and id
_REQUIRED = ("id", "query", "text")
_OPTIONS = {
    "id": "--id-field",
    "query": "--query-field",
    "text": "--text-field",
    "document_id": "--document-id-field",
    "relevant": "--relevant-field",
}

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Own:
    """The columns that make the request, or paths into them."""

    id: str
    query: Sequence[str]
    text: Sequence[str]
    document_id: str | None
    relevant: str | None

    def document(self, line: Line) -> dict[str, Any]:
        """What a line says of a document."""
        text = _joined(line, self.text)
        name = None if self.document_id is None else value_at(line, self.document_id)
        return {"text": text} if name is None else {"text": text, "id": str(name)}

    def further(self, line: Line) -> dict[str, Any]:
        """What a line carries besides."""
        own = (self.id, *self.query, *self.text, self.document_id)
        return {name: value for name, value in line.items() if name not in own}

    def grades(self, lines: Sequence[Line], documents: list[dict[str, Any]]) -> dict[str, float] | None:
        """Grades by document, of the lines that have one; None where what stands there is no number."""
        if self.relevant is None:
            return {}
        keys = [document_key(document.get("id"), place) for place, document in enumerate(documents)]
        given = (value_at(line, self.relevant) for line in lines)
        return grades({key: None if grade == "" else grade for key, grade in zip(keys, given, strict=True)})


def beside_document(extra: Mapping[str, Any], index: int) -> Line:
    """What a row carries beside one of its documents; nothing where it was mended and has no such line any more."""
    lines = extra.get(COLUMNS_KEY)
    line = lines[index] if isinstance(lines, list) and index < len(lines) else {}
    return line if isinstance(line, dict) else {}


class LongForm:
    """`query_id, query, doc_id, text` and further columns, which are carried through."""

    def __init__(self, names: FieldNames, columns: Sequence[str]) -> None:
        self._names = names
        self._columns = columns
        found = {part: self._found(part, dict.fromkeys(columns, "")) for part in _OPTIONS}
        [name], query, text = (found[part] for part in _REQUIRED)
        document_id, relevant = (next(iter(found[part]), None) for part in ("document_id", "relevant"))
        self._own = _Own(name, query, text, document_id, relevant)

    @property
    def id(self) -> str:
        """The column of the query's id."""
        return self._own.id

    @property
    def document_id(self) -> str | None:
        """The column of the document's, if there is one."""
        return self._own.document_id

    def grouped(self, lines: Iterable[Line]) -> Iterator[list[Line]]:
        """The lines of one query at a time."""
        with SeenIds() as seen:
            for query_id, group in groupby(lines, key=lambda line: value_at(line, self._own.id)):
                if not _is_missing(query_id):
                    seen.refuse_repeated(str(query_id), "sort the file by its query id column")
                yield list(group)

    def row(self, lines: Sequence[Line]) -> InputRow:
        """The request that these lines make together."""
        own = self._own
        queries = list(dict.fromkeys(_joined(line, own.query) for line in lines))
        documents = [own.document(line) for line in lines]
        further = [own.further(line) for line in lines]
        relevant = own.grades(lines, documents)
        fields: dict[str, Any] = {
            "query": queries[0] if len(queries) == 1 else queries,
            "documents": documents,
            "id": value_at(lines[0], own.id),
        }
        extra: dict[str, Any] = {COLUMNS_KEY: further} if any(further) else {}
        if relevant:
            extra[RELEVANT_KEY] = relevant
        texts = [fields["query"], *(document["text"] for document in documents)]
        size = sum(len(text) for text in texts if isinstance(text, str))
        broken = partial(broken_row, size_bytes=size, id_=fields["id"])
        if _is_missing(fields["id"]):
            return broken({**fields, **extra}, f"{own.id}: expected an id, got none", id_=None)
        if len(queries) > 1:
            reason = f"lines of {fields['id']} differ in {','.join(own.query)}, expected one query"
            return broken({**fields, **extra}, reason)
        if relevant is None and len(self._names.relevant) == 1:
            return broken({**fields, **extra}, f"{own.relevant}: expected a number in each line, or nothing")
        return InputRow(source={**fields, **extra}, extra=extra, size_bytes=size, relevant=relevant, **fields)

    def further_columns(self) -> list[str]:
        """Those that are carried through."""
        return list(self._own.further(dict.fromkeys(self._columns, "")))

    def _found(self, part: str, columns: dict[str, str]) -> list[str]:
        """What a part of the request is called in these columns; nothing where it is not there and need not be."""
        names: Names = getattr(self._names, part)
        found = chosen(columns, names)
        is_asked_for = part in _REQUIRED or len(names) == 1
        if found is None and not is_asked_for:
            return []
        named = paths(columns, found or names[0])
        missing = next((name for name in named if not {name, name.partition(".")[0]} & columns.keys()), None)
        if missing is not None:
            others = "" if len(columns) > 1 else ", --delimiter what stands between them"
            raise InvalidRequest(
                f"expected a column {missing}, got {_told(columns) or 'none'}; {_OPTIONS[part]} names it, "
                f"--columns names all of a table without a header{others}",
                {"field": part},
            )
        return named


def _told(columns: Iterable[str]) -> str:
    """The names of columns, but for those that may be the values of a first line that is no header."""
    columns = list(columns)
    known = {name for one in (TABLE_NAMES, USUAL_NAMES) for part in _OPTIONS for name in getattr(one, part)}
    return f"{len(columns)} of other names" if columns and known.isdisjoint(columns) else ", ".join(columns)


def _joined(line: Line, columns: Sequence[str]) -> Any:
    """What stands in these columns, joined by blanks, empty ones left out."""
    values = [value_at(line, name) for name in columns]
    return (
        values[0] if len(values) == 1 else " ".join(str(value) for value in values if value not in (None, ""))
    )


def _is_missing(query_id: Any) -> bool:
    return query_id is None or query_id == ""
