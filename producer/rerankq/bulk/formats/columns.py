"""Parquet and Arrow files: one row per request, or one per document. pyarrow is loaded when such a file is opened.

Columns are read by the megabyte, not by the row group or column chunk, and leave Arrow as values of JSON.
"""

import mmap
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rerankq.bulk.formats.arrow_types import as_json, pyarrow
from rerankq.bulk.formats.fields import chosen
from rerankq.bulk.formats.gathered import Types
from rerankq.bulk.formats.inputs import READ_ERRORS, Given, Input, InputFile
from rerankq.bulk.formats.interface import Reader
from rerankq.bulk.formats.json_lines import canonical_row, ranked_row
from rerankq.bulk.formats.long_form import LongForm
from rerankq.bulk.formats.names import TABLE_NAMES, USUAL_NAMES, FieldNames, Names
from rerankq.bulk.formats.remote import is_remote
from rerankq.bulk.formats.table import RANKED_NAMES, ranked_lines
from rerankq.bulk.rows import InputRow, Ranked
from rerankq.contract import wire
from rerankq.contract.errors import InvalidRequest

BATCH_BYTES = 2_000_000  # of values at a time
BATCH_ROWS = 256  # what a row group says of its size leaves out that a value may stand there many times
_BUFFER_BYTES = 1 << 20  # of a remote column chunk at a time


class ColumnRows:
    """The rows of record batches as requests: each by itself, or in long form those of a query together."""

    def __init__(self, schema: Any, names: FieldNames, *, is_long: bool) -> None:
        doubled = next((name for name in schema.names if schema.names.count(name) > 1), None)
        if doubled is not None:
            raise InvalidRequest(f"the column {doubled} stands there twice", {"field": doubled})
        self._kinds = {column.name: column.type for column in schema}
        self._names = names
        self._form = LongForm(names, schema.names) if is_long else None

    def records(self, rows: Iterator[dict[str, Any]]) -> Iterator[Any]:
        """What makes a request: one row or several, as values of JSON."""
        return rows if self._form is None else self._form.grouped(rows)

    def row(self, record: Any) -> InputRow:
        """What a record says."""
        if self._form is not None:
            return self._form.row(record)
        return canonical_row(record, self._names, len(wire.encode(record)))

    def further_columns(self) -> list[str] | None:
        """What is carried beside each document; None where it is carried beside the request."""
        return None if self._form is None else self._form.further_columns()

    def types(self) -> Types:
        """The types of what is carried."""
        kinds = self._kinds
        if self._form is not None:
            return Types(kinds.get(self._form.id), kinds.get(self._form.document_id or ""), kinds)
        return Types(_named(kinds, self._names.id), _document_id(kinds, self._names), kinds)

    def id_columns(self) -> tuple[str | None, str | None]:
        """The columns of the ids of requests and of documents, where there are such columns."""
        if self._form is not None:
            return self._form.id, self._form.document_id
        return chosen(dict.fromkeys(self._kinds, ""), self._names.id), None


class ColumnsReader(Reader):
    """Columns `query`, `documents` (a list of strings or of structs), `id`, or those of the long form."""

    def __init__(self, given: Given, *, is_long: bool = False) -> None:
        if given.input.is_pipe:
            raise InvalidRequest("Parquet and Arrow cannot come from a pipe; name a file", {"field": "input"})
        super().__init__(given)
        self._is_long = is_long
        self._known: ColumnRows | None = None
        self._parts_read = self._rows_read = 0
        self._rows: int | None = None

    def records(self) -> Iterator[Any]:
        return self._requests.records(self.rows())

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each row by itself, whatever it means."""
        return (
            row for part in self._input.in_turn() for batch in self._counted(part) for row in rows_of(batch)
        )

    def row(self, record: Any) -> InputRow:
        return self._requests.row(record)

    def fraction_read(self) -> float | None:
        """By rows, where the files say how many there are."""
        if not self._rows:
            return None
        return (self._parts_read + min(self._rows_read / self._rows, 1.0)) / len(self._input.parts)

    def further_columns(self) -> list[str] | None:
        return self._requests.further_columns() if self._is_long else None

    def types(self) -> Types:
        """The types of what is carried, as the first file has them."""
        return self._requests.types()

    @property
    def _requests(self) -> ColumnRows:
        if self._known is None:
            self._known = ColumnRows(self.schema(self._input.parts[0]), self._names, is_long=self._is_long)
        return self._known

    def _counted(self, part: InputFile) -> Iterator[Any]:
        if self._is_long and self.schema(part).names != self.schema(self._input.parts[0]).names:
            raise InvalidRequest(
                f"{part.path} has other columns than the files before it", {"field": "input"}
            )
        self._rows_read = 0
        for batch in self._batches(part):
            yield batch
            self._rows_read += batch.num_rows
        self._parts_read += 1

    @staticmethod
    @abstractmethod
    def schema(part: InputFile) -> Any:
        """Names and types of a file's columns."""

    @abstractmethod
    def _batches(self, part: InputFile) -> Iterator[Any]:
        """Its record batches, of some megabytes each."""


class ParquetReader(ColumnsReader):
    """Parquet files."""

    @staticmethod
    def schema(part: InputFile) -> Any:
        """Names and types of a file's columns."""
        with _opened(part) as opened:
            return pyarrow("parquet").read_schema(opened.file)

    def _batches(self, part: InputFile) -> Iterator[Any]:
        with _opened(part) as opened:
            file = pyarrow("parquet").ParquetFile(opened.file, buffer_size=opened.buffer_bytes)
            self._rows = file.metadata.num_rows
            for index in range(file.num_row_groups):
                rows = _rows_per_batch(file.metadata.row_group(index))
                for batch in file.iter_batches(batch_size=rows, row_groups=[index], use_threads=False):
                    yield batch
                    opened.let_go()


class ArrowReader(ColumnsReader):
    """Arrow files or streams."""

    @staticmethod
    def schema(part: InputFile) -> Any:
        """Names and types of a file's columns."""
        with _opened(part) as opened:
            return _arrow_schema_and_batches(opened.file)[0]

    def _batches(self, part: InputFile) -> Iterator[Any]:
        with _opened(part) as opened:
            for batch in _arrow_schema_and_batches(opened.file)[1]:
                for slice_ in slices(batch):
                    yield slice_
                    opened.let_go()


def is_long(input_: Input, names: Mapping[str, str | None], schema: Callable[[InputFile], Any]) -> bool:
    """Whether a file is of the long form; a broken one is of no form, and whoever reads it says so."""
    if input_.is_pipe:
        return False
    try:
        return is_long_form(schema(input_.parts[0]).names, names)
    except READ_ERRORS:
        return False


def is_long_form(columns: Sequence[str], names: Mapping[str, str | None]) -> bool:
    """Whether columns are those of a row per document; `names` are the caller's own for its fields."""
    wide = USUAL_NAMES.renamed(names)
    if names.get("documents") is not None or chosen(dict.fromkeys(columns, ""), wide.documents) is not None:
        return False
    try:
        LongForm(TABLE_NAMES.renamed(names), columns)
    except InvalidRequest:
        return False
    return True


def ranked_columns(given: Given, *, reader: Callable[[Given], ColumnsReader]) -> Iterator[Ranked]:
    """The rankings of a file that was written here, a row per request or per document."""
    opened = reader(given)
    columns = opened.schema(given.input.parts[0]).names
    if "results" not in columns:
        return ranked_lines(LongForm(RANKED_NAMES, columns).grouped(opened.rows()), given)
    return (_ranked(record, given) for record in opened.rows())


def _ranked(record: Mapping[str, Any], given: Given) -> Ranked:
    fields = {name: value for name, value in record.items() if value is not None}
    try:
        results = [{**one, "id": None if one["id"] is None else str(one["id"])} for one in fields["results"]]
        return ranked_row({**fields, "results": results}, given.names)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidRequest(
            f"{given.input.path}: expected columns as `rerankq bulk` writes them, id and results",
            {"field": "output"},
        ) from error


class _Opened:
    """A file for pyarrow."""

    def __init__(self, file: Any, mapped: mmap.mmap | None) -> None:
        self.file, self._mapped = file, mapped
        self.buffer_bytes = 0 if mapped is not None else _BUFFER_BYTES

    def let_go(self) -> None:
        """Give back what has been read: the file's pages, and memory that pyarrow keeps for the next batch."""
        if self._mapped is not None:
            self._mapped.madvise(mmap.MADV_DONTNEED)
        pyarrow().default_memory_pool().release_unused()


@contextmanager
def _opened(part: InputFile) -> Generator[_Opened]:
    """Mapped where it lies on this machine: a column chunk is then read without a copy of it."""
    if is_remote(part.path):
        with part.open() as stream:
            yield _Opened(stream, None)
        return
    with Path(part.path).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)  # closed with the last that reads it
        yield _Opened(pyarrow().BufferReader(pyarrow().py_buffer(mapped)), mapped)


def _rows_per_batch(group: Any) -> int:
    row_bytes = group.total_byte_size // max(group.num_rows, 1)
    return min(max(BATCH_BYTES // max(row_bytes, 1), 1), BATCH_ROWS)


def _arrow_schema_and_batches(file: Any) -> tuple[Any, Iterator[Any]]:
    """Of an Arrow file or stream."""
    ipc = pyarrow("ipc")
    try:
        opened = ipc.open_file(file)
    except pyarrow().ArrowInvalid:
        file.seek(0)
        stream = ipc.open_stream(file)
        return stream.schema, iter(stream)
    return opened.schema, (opened.get_batch(index) for index in range(opened.num_record_batches))


def slices(batch: Any) -> Iterator[Any]:
    """A batch of any size in batches of some megabytes."""
    rows = max(BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1), 1)
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def rows_of(batch: Any) -> Iterator[dict[str, Any]]:
    """Its rows as values of JSON."""
    for part in slices(batch):
        columns = [as_json(column) for column in part.columns]
        for values in zip(*columns, strict=True):
            yield dict(zip(part.schema.names, values, strict=True))


def _named(kinds: Mapping[str, Any], names: Names) -> Any:
    """The type of the first of these columns that is there."""
    return kinds.get(chosen(dict.fromkeys(kinds, ""), names) or "")


def _document_id(kinds: Mapping[str, Any], names: FieldNames) -> Any:
    """The type of the ids in a list of structs."""
    documents = _named(kinds, names.documents)
    struct = getattr(documents, "value_type", None)
    if struct is None or not pyarrow().types.is_struct(struct):
        return None
    return _named({part.name: part.type for part in struct}, names.document_id)
