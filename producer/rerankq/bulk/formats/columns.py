"""Parquet and Arrow files: one row per request. pyarrow is loaded when such a file is opened.

As an output such a file cannot be appended to, and is unreadable until it is closed: JSON lines, which can be resumed,
are gathered while the run goes on and turned into the file when it is complete.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from rerankq.bulk.formats.json_lines import canonical_row, ranked_row
from rerankq.bulk.formats.remote import is_remote
from rerankq.bulk.formats.source import Given, Source
from rerankq.bulk.rows import Ranked, Row
from rerankq.contract import wire
from rerankq.contract.errors import InvalidRequest, InvalidSettings

ROWS_PER_BATCH = 256  # decoded at a time
ROWS_PER_GROUP = 10_000
_OURS = ("id", "row", "results", "complete")


class _Columns(ABC):
    """Columns `query`, `documents` (a list of strings or of structs), `id`; further ones are carried through."""

    def __init__(self, given: Given) -> None:
        if given.source.is_pipe:
            raise InvalidRequest("Parquet and Arrow cannot come from a pipe; name a file", {"field": "input"})
        self._source, self._names = given.source, given.names
        self._parts_read = self._rows_read = 0
        self._rows: int | None = None

    def records(self) -> Iterator[dict[str, Any]]:
        """The rows as plain values."""
        for batch in self._batches():
            for record in batch.to_pylist():
                self._rows_read += 1
                yield record

    def row(self, record: dict[str, Any]) -> Row:
        """What one row says."""
        fields = wire.decode(wire.encode(_as_json(record)))
        return canonical_row(fields, self._names, len(wire.encode(fields)))

    def sources(self) -> list[Source]:
        """The one input."""
        return [self._source]

    def fraction_read(self) -> float | None:
        """By rows, where the files say how many there are."""
        if not self._rows:
            return None
        return (self._parts_read + min(self._rows_read / self._rows, 1.0)) / len(self._source.parts)

    def further_columns(self) -> None:
        """Not known beforehand."""
        return

    @abstractmethod
    def _batches(self) -> Iterator[Any]:
        """The record batches, some hundred rows each."""


class ParquetReader(_Columns):
    """A Parquet file."""

    def _batches(self) -> Iterator[Any]:
        for part in self._source.in_turn():
            with part.open() as opened:
                file = pyarrow("parquet").ParquetFile(opened)
                self._rows_read, self._rows = 0, file.metadata.num_rows
                yield from file.iter_batches(batch_size=ROWS_PER_BATCH)
            self._parts_read += 1


class ArrowReader(_Columns):
    """An Arrow file or stream."""

    def _batches(self) -> Iterator[Any]:
        for part in self._source.in_turn():
            with part.open() if is_remote(part.path) else pyarrow().memory_map(part.path) as opened:
                for batch in _open_arrow(opened):
                    for start in range(0, batch.num_rows, ROWS_PER_BATCH):
                        yield batch.slice(start, ROWS_PER_BATCH)


def ranked_parquet(given: Given) -> Iterator[Ranked]:
    """The rankings of a Parquet file that was written here.

    Raises:
        InvalidRequest: it has other columns.
    """
    return _ranked(ParquetReader(given), given)


def ranked_arrow(given: Given) -> Iterator[Ranked]:
    """The rankings of an Arrow file that was written here; raises likewise."""
    return _ranked(ArrowReader(given), given)


def _ranked(reader: _Columns, given: Given) -> Iterator[Ranked]:
    for record in reader.records():
        try:
            extra = wire.decode(record["extra"].encode()) if record["extra"] else {}
            yield ranked_row({**extra, "id": record["id"], "results": record["results"]}, given.names)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidRequest(
                f"{given.source.path}: expected columns as `rerankq bulk` writes them, id and results",
                {"field": "output"},
            ) from error


def write_parquet(lines: Path, target: Path) -> None:
    """The gathered lines as a Parquet file."""
    schema = _schema(pyarrow())
    _write(
        lines, target, schema, lambda path: pyarrow("parquet").ParquetWriter(path, schema, compression="zstd")
    )


def write_arrow(lines: Path, target: Path) -> None:
    """The gathered lines as an Arrow file."""
    schema = _schema(pyarrow())
    _write(lines, target, schema, lambda path: pyarrow().ipc.new_file(str(path), schema))


def pyarrow(part: str | None = None) -> Any:
    """pyarrow, or a part of it.

    Raises:
        InvalidSettings: it is not installed.
    """
    try:
        return import_module("pyarrow" if part is None else f"pyarrow.{part}")
    except ImportError as error:
        raise InvalidSettings(
            "Parquet and Arrow need pyarrow, which is not installed; `pip install 'rerankq[bulk]'` brings it"
        ) from error


def _open_arrow(mapped: Any) -> Iterator[Any]:
    """The record batches of an Arrow file or stream."""
    ipc = pyarrow("ipc")
    try:
        file = ipc.open_file(mapped)
    except pyarrow().ArrowInvalid:
        mapped.seek(0)
        yield from ipc.open_stream(mapped)
        return
    for index in range(file.num_record_batches):
        yield file.get_batch(index)


def _as_json(value: Any) -> Any:
    """The value with all that JSON lacks as text."""
    if isinstance(value, dict):
        return {str(name): _as_json(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_as_json(part) for part in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _write(lines: Path, target: Path, schema: Any, opened: Callable[[Path], Any]) -> None:
    """A file with the columns `id` (text), `results` and what the rows carried, as JSON text."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    with lines.open("rb") as gathered, opened(unfinished) as file:
        while rows := list(islice(_rows(gathered), ROWS_PER_GROUP)):
            file.write_batch(pyarrow().RecordBatch.from_pylist(rows, schema=schema))
    unfinished.replace(target)


def _rows(gathered: Any) -> Iterator[dict[str, Any]]:
    for line in gathered:
        fields: dict[str, Any] = wire.decode(line)
        extra = {name: value for name, value in fields.items() if name not in _OURS}
        name = fields.get("id", fields.get("row"))
        yield {
            "id": None if name is None else str(name),
            "results": fields["results"],
            "extra": wire.encode(extra).decode() if extra else None,
        }


def _schema(arrow: Any) -> Any:
    result = arrow.struct(
        {
            "index": arrow.int32(),
            "id": arrow.string(),
            "relevance_score": arrow.float32(),
            "logit": arrow.float32(),
            "truncated": arrow.bool_(),
            "document": arrow.string(),
        }
    )
    return arrow.schema({"id": arrow.string(), "results": arrow.list_(result), "extra": arrow.string()})
