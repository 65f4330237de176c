"""Parquet and Arrow files out of the lines gathered for them, each column in the type that it came in.

Such a file cannot be appended to, and is unreadable until it is closed: JSON lines, which can be resumed, are gathered
while a run goes on. They are read twice: for the names and types that no input has told, then to be written.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

from rerankq.bulk.formats.arrow_types import (
    as_arrow,
    joined,
    pyarrow,
    type_of,
    without_dictionaries,
    without_nulls,
)
from rerankq.bulk.formats.json_lines import decoded, line_of
from rerankq.bulk.formats.long_form import RELEVANT_KEY, beside_document
from rerankq.bulk.formats.names import Layout, Shown
from rerankq.bulk.rows import InputRow, beside, document_key
from rerankq.contract.messages import Window

LINES_BYTES = 4_000_000  # decoded at a time
GROUP_BYTES = 32_000_000  # of a row group of Parquet, before it is encoded
_IDS = ("id", "query_id", "doc_id")
_LONG_COLUMNS = ("query_id", "doc_id", "rank", "relevance_score", "logit")
UNFIT = (ValueError, TypeError, KeyError, AttributeError, OverflowError, NotImplementedError)
_MIXED = object()
"""In place of a type: values that have none in common."""

Record = dict[str, Any]
Kinds = Mapping[str, Any]
"""Arrow types by column; None where it is told by the values."""


@dataclass(frozen=True, slots=True)
class Types:
    """The Arrow types of what a run carries, as far as its input has told them; any others are told by the values."""

    id: Any = None
    document_id: Any = None
    further: Mapping[str, Any] = field(default_factory=dict[str, Any])
    are_by_document: bool = False
    """What is carried is carried beside each document."""


def write_parquet(lines: Path, target: Path, types: Types, shown: Shown, *, is_long: bool) -> None:
    """The gathered lines as a Parquet file; in long form a row per document, else one per request."""
    _write(lines, target, _long(types) if is_long else _wide(types), shown, _Parquet)


def write_arrow(lines: Path, target: Path, types: Types, shown: Shown, *, is_long: bool) -> None:
    """The same as an Arrow file."""
    _write(lines, target, _long(types) if is_long else _wide(types), shown, _Arrow)


def columns_of_documents(row: InputRow, layout: Layout) -> list[str]:
    """What the long form can show of a row."""
    text = ("text",) if layout.task.with_documents else ()
    ours = (*_LONG_COLUMNS, *text)
    is_by_document = layout.further_columns is not None
    carried = beside_document(row.extra, 0) if is_by_document else row.extra
    return [*ours, *(beside(name, ours) for name in carried)]


@dataclass(frozen=True, slots=True)
class _Form:
    """What a line is in columns."""

    records: Callable[[Record], Iterable[Record]]
    columns: Sequence[str]
    """Those that are always there, in front."""
    kinds: Kinds

    def without(self, column: str) -> Self:
        """The form after a value of this column was not of the type that was known or found."""
        known = self.kinds.get(column)
        usual = _results_type(None)  # whose documents' ids are text
        if column == "results" and known is not None and known != usual:
            return replace(self, kinds={**self.kinds, column: usual})
        return replace(self, kinds={**self.kinds, column: _MIXED if known is None else None})


def _wide(types: Types) -> _Form:
    ours = {"id": types.id, "results": _results_type(types.document_id)}
    names = (*ours, "row", "complete")
    further = {beside(name, names): kind for name, kind in types.further.items()}
    return _Form(lambda fields: [fields], tuple(ours), {**further, **ours})


def _long(types: Types) -> _Form:
    arrow = pyarrow()
    ours = {
        "query_id": types.id,
        "doc_id": types.document_id,
        "rank": arrow.int32(),
        "relevance_score": arrow.float32(),
        "logit": arrow.float32(),
    }
    further = {beside(name, ours): kind for name, kind in types.further.items()}
    documents = partial(_documents, are_by_document=types.are_by_document)
    return _Form(documents, tuple(ours), {**further, **ours})


def _documents(fields: Record, *, are_by_document: bool) -> Iterator[Record]:
    """A record for each ranked document, best first."""
    query_id = fields.pop("id", fields.pop("row", None))
    results = fields.pop("results")
    for rank, result in enumerate(results, start=1):
        ours = {
            "query_id": query_id,
            "doc_id": document_key(result.get("id"), result["index"]),
            "rank": rank,
            "relevance_score": result["relevance_score"],
            "logit": result["logit"],
        }
        text = {"text": result["document"]} if "document" in result else {}
        carried = beside_document(fields, result["index"]) if are_by_document else fields
        yield {**ours, **{beside(name, {**ours, **text}): value for name, value in carried.items()}, **text}


def _results_type(document_id: Any) -> Any:
    arrow = pyarrow()
    result = {
        "index": arrow.int32(),
        "id": document_id or arrow.string(),
        "relevance_score": arrow.float32(),
        "logit": arrow.float32(),
        "truncated": arrow.bool_(),
        "window": arrow.struct(dict.fromkeys(Window.model_fields, arrow.int32())),
        "document": arrow.string(),
    }
    return arrow.list_(arrow.struct(result))


class Unfit(Exception):
    """A value is not of the type that its column was taken for."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


class _Parquet:
    """Row groups of some megabytes, whatever the batches are."""

    def __init__(self, path: Path, schema: Any) -> None:
        self._file = pyarrow("parquet").ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[Any] = []

    def write(self, batch: Any) -> None:
        self._waiting.append(batch)
        if sum(waiting.nbytes for waiting in self._waiting) >= GROUP_BYTES:
            self._write_group()

    def close(self) -> None:
        if self._waiting:
            self._write_group()
        self._file.close()

    def _write_group(self) -> None:
        table = pyarrow().Table.from_batches(self._waiting)
        self._file.write_table(table, row_group_size=max(table.num_rows, 1))
        self._waiting = []


class _Arrow:
    def __init__(self, path: Path, schema: Any) -> None:
        self._file = pyarrow().ipc.new_file(str(path), schema)
        self.write, self.close = self._file.write_batch, self._file.close


def _write(lines: Path, target: Path, form: _Form, shown: Shown, opened: Callable[[Path, Any], Any]) -> None:
    """The file; a column that has a value of another type than is known is what all of its values are."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    while True:
        try:
            with lines.open("rb") as gathered:
                columns = _columns(gathered, form)
                columns = {name: columns[name] for name in shown.among(list(columns))}
                gathered.seek(0)
                _write_as(unfinished, gathered, form, columns, opened)
            break
        except Unfit as unfit:
            form = form.without(unfit.column)
    unfinished.replace(target)


def _columns(gathered: IO[bytes], form: _Form) -> "dict[str, Column | Dictionary]":
    """The columns that are there, with their types."""
    columns = {name: column(name, form.kinds.get(name)) for name in form.columns}
    for records in _batches(gathered, form):
        for name in dict.fromkeys(name for record in records for name in record):
            if name not in columns:
                columns[name] = column(name, form.kinds.get(name))
            columns[name].see([record.get(name) for record in records])
    return columns


def _write_as(
    path: Path,
    gathered: IO[bytes],
    form: _Form,
    columns: "Mapping[str, Column | Dictionary]",
    opened: Callable[[Path, Any], Any],
) -> None:
    arrow = pyarrow()
    schema = arrow.schema({name: column.kind for name, column in columns.items()})
    file = opened(path, schema)
    try:
        for records in _batches(gathered, form):
            arrays = [
                column.array([record.get(name) for record in records]) for name, column in columns.items()
            ]
            file.write(arrow.RecordBatch.from_arrays(arrays, schema=schema))
    finally:
        file.close()


class Column:
    """A column: its values are seen once, then made into arrays."""

    def __init__(self, name: str, known: Any) -> None:
        self._name, self._known = name, known
        self._found: Any = pyarrow().null() if known is None else known

    @property
    def kind(self) -> Any:
        """Its type."""
        if self._found is _MIXED:
            return pyarrow().string()
        return without_nulls(self._found) if self._known is None else self._known

    def see(self, values: Sequence[Any]) -> None:
        """Learn from these what is not known."""
        if self._known is None and self._found is not _MIXED:
            self._found = self._joined(values)

    def array(self, values: Sequence[Any]) -> Any:
        """These values.

        Raises:
            Unfit: one is not of the type.
        """
        try:
            return as_arrow(map(self._as_text, values) if self._found is _MIXED else values, self.kind)
        except UNFIT:
            raise Unfit(self._name) from None  # its message would show the value

    def _joined(self, values: Sequence[Any]) -> Any:
        if self._name == RELEVANT_KEY and any(isinstance(value, dict) for value in values):
            return _MIXED  # the keys are ids
        try:
            return joined(self._found, type_of(values))
        except UNFIT:
            return _MIXED

    def _as_text(self, value: Any) -> str | None:
        """As JSON, an id as it is."""
        if value is None or (self._name in _IDS and isinstance(value, str)):
            return value
        return line_of(value).decode().rstrip()


class Dictionary:
    """A column of few distinct values. A file of Arrow batches has one dictionary for all of them."""

    def __init__(self, name: str, known: Any) -> None:
        self._name = name
        self.kind = pyarrow().dictionary(known.index_type, known.value_type)
        self._places: dict[Any, int] = {}

    def see(self, values: Sequence[Any]) -> None:
        """Put them into the dictionary."""
        try:
            for value in values:
                if value is not None:
                    self._places.setdefault(value, len(self._places))
        except TypeError:  # no such value was there before it was mended
            raise Unfit(self._name) from None

    def array(self, values: Sequence[Any]) -> Any:
        """These values.

        Raises:
            Unfit: one is not of the type, or there are more than its places can tell.
        """
        arrow = pyarrow()
        try:
            places = arrow.array(map(self._places.get, values), type=self.kind.index_type)
            return arrow.DictionaryArray.from_arrays(
                places, as_arrow(list(self._places), self.kind.value_type)
            )
        except UNFIT:
            raise Unfit(self._name) from None


def column(name: str, known: Any) -> Column | Dictionary:
    """A column of a type that is known, or of one that its values tell where it is None."""
    if known in (None, _MIXED):
        return Column(name, known)
    is_dictionary = pyarrow().types.is_dictionary(known)
    # Within a list or struct a dictionary would be another one in each batch, for which an Arrow file has no place.
    return Dictionary(name, known) if is_dictionary else Column(name, without_dictionaries(known))


def _batches(gathered: IO[bytes], form: _Form) -> Iterator[list[Record]]:
    """The records of some megabytes of lines at a time."""
    records: list[Record] = []
    size = 0
    for line in gathered:
        records += form.records(decoded(line))
        size += len(line)
        if size >= LINES_BYTES:
            yield records
            records, size = [], 0
    if records:
        yield records
