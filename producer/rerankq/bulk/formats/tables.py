"""Tables of a caller's program as requests: of pandas, of Hugging Face, of whatever has Arrow's PyCapsule interface.

None of these libraries is imported, and no table is copied as a whole.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from rerankq.bulk.formats.arrow_types import pyarrow
from rerankq.bulk.formats.columns import BATCH_BYTES, BATCH_ROWS, ColumnRows, is_long_form, rows_of, slices
from rerankq.bulk.formats.gathered import Types
from rerankq.bulk.formats.names import TABLE_NAMES, USUAL_NAMES, FieldNames
from rerankq.bulk.rows import InputRow
from rerankq.contract.errors import InvalidRequest

_FIRST_ROWS = 16  # of a table that does not say how large its rows are


def is_table(given: Any) -> bool:
    """Whether an object has columns; a series is one, and gives requests like any list."""
    is_of_arrow = hasattr(given, "__arrow_c_stream__") and not hasattr(given, "to_list")
    return is_of_arrow or _is_of_pandas(given) or _is_of_hugging_face(given)


def _is_of_pandas(given: Any) -> bool:
    """Also of a version before 2.2, which knows nothing of Arrow's interface."""
    return hasattr(given, "iloc") and hasattr(given, "columns")


def _is_of_hugging_face(given: Any) -> bool:
    """A data set rather than a dictionary of its splits."""
    return hasattr(given, "with_format") and hasattr(given, "iter")


def asked_names(usual: FieldNames, names: Mapping[str, str | None]) -> FieldNames:
    """The names of what is asked of a request; a program's own key `relevant` is none of ours."""
    return replace(usual.renamed(names), relevant=())


class Table:
    """A caller's table, read once."""

    def __init__(self, given: Any, names: Mapping[str, str | None]) -> None:
        self._given = given
        schema, self._batches = _opened(given)
        self.is_long = is_long_form(schema.names, names)
        fields = asked_names(TABLE_NAMES if self.is_long else USUAL_NAMES, names)
        self._requests = ColumnRows(schema, fields, is_long=self.is_long)

    def requests(self) -> Iterator[tuple[Any, InputRow]]:
        """What makes a request, as Python has its values, and what it says; in long form that is a list of rows."""
        waiting: deque[Any] = deque()
        for record in self._requests.records(self._noted(waiting)):
            row = self._requests.row(record)
            yield [waiting.popleft() for _ in record] if self.is_long else waiting.popleft(), row

    def types(self) -> Types:
        """The types of its ids; of pandas' objects the first rows know only their own."""
        types = self._requests.types()
        if not _is_of_pandas(self._given):
            return types
        id_, document_id = self.id_columns()
        return Types(self._whole_type(id_) or types.id, self._whole_type(document_id) or types.document_id)

    def id_columns(self) -> tuple[str | None, str | None]:
        """What it calls the ids of requests and of documents, where it has such columns."""
        return self._requests.id_columns()

    def like(self, result: Any) -> Any:
        """A table of pyarrow's as one of the caller's library; for Hugging Face it stays one of pyarrow's."""
        library = type(self._given).__module__.partition(".")[0]
        if library == "pandas":
            return result.to_pandas()
        return type(self._given)(result) if library == "polars" else result

    def _whole_type(self, column: str | None) -> Any:
        return None if column is None else _of_pandas(self._given[[column]]).schema.field(0).type

    def _noted(self, waiting: deque[Any]) -> Iterator[dict[str, Any]]:
        """The rows as values of JSON; as Python has them they wait for whoever asked."""
        for batch in self._batches:
            for part in slices(batch):
                rows = list(rows_of(part))
                for row, native in zip(rows, _native(part, rows), strict=True):
                    waiting.append(native)
                    yield row


def _opened(given: Any) -> tuple[Any, Iterator[Any]]:
    """The schema and the record batches."""
    if _is_of_pandas(given):  # its own export would be a copy of all of it
        return _of_pandas(given.iloc[:_FIRST_ROWS]).schema, _slices_of_pandas(given)
    if _is_of_hugging_face(given):
        tables = given.with_format("arrow").iter(batch_size=_FIRST_ROWS)
        batches = (batch for table in tables for batch in table.to_batches())
        first = next(batches, None)
        schema = pyarrow().schema([]) if first is None else first.schema
        return schema, chain([] if first is None else [first], batches)
    arrow = pyarrow()
    try:
        reader = arrow.RecordBatchReader.from_stream(given)
    except arrow.ArrowException:  # a lone column
        raise InvalidRequest(
            f"expected a table with columns, got {type(given).__name__}", {"field": "requests"}
        ) from None
    return reader.schema, iter(reader)


def _slices_of_pandas(given: Any) -> Iterator[Any]:
    start, rows = 0, _FIRST_ROWS
    while start < len(given):
        batch = _of_pandas(given.iloc[start : start + rows])
        yield batch
        start += rows
        rows = min(max(BATCH_BYTES * batch.num_rows // max(batch.nbytes, 1), 1), BATCH_ROWS)


def _of_pandas(given: Any) -> Any:
    arrow = pyarrow()
    try:
        return arrow.RecordBatch.from_pandas(given, preserve_index=False)
    except (arrow.ArrowException, ValueError, TypeError, AttributeError) as error:
        told = error.args[-1] if len(error.args) > 1 else type(error).__name__  # the first has a value in it
        raise InvalidRequest(
            f"the table cannot be read as Arrow columns: {told}; give each column one type, or leave it out",
            {"field": "requests"},
        ) from None


def _native(batch: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        return batch.to_pylist()
    except ValueError:  # nanoseconds, without pandas
        return rows
