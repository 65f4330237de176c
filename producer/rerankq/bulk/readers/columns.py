"""Parquet and Arrow files: one row per request. pyarrow is loaded when such a file is opened."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from rerankq.bulk.formats import FieldNames
from rerankq.bulk.readers.json_lines import canonical_row
from rerankq.bulk.rows import Row
from rerankq.bulk.source import Identity, identity_of
from rerankq.contract import wire
from rerankq.contract.errors import InvalidRequest, InvalidSettings

ROWS_PER_BATCH = 256  # decoded at a time


class Columns:
    """Columns `query`, `documents` (a list of strings or of structs), `id`; further ones are carried through."""

    def __init__(self, path: str, names: FieldNames, kind: Literal["parquet", "arrow"]) -> None:
        if not Path(path).is_file():
            raise InvalidRequest(
                f"there is no file {path}; Parquet and Arrow cannot come from a pipe", {"field": "input"}
            )
        self._path, self._names, self._kind = path, names, kind
        self._rows_read = 0
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

    def identities(self) -> list[Identity]:
        """That of the one file."""
        return [identity_of(self._path)]

    def fraction_read(self) -> float | None:
        """By rows, where the file says how many there are."""
        return min(self._rows_read / self._rows, 1.0) if self._rows else None

    def _batches(self) -> Iterator[Any]:
        if self._kind == "parquet":
            file = pyarrow("parquet").ParquetFile(self._path)
            self._rows = file.metadata.num_rows
            yield from file.iter_batches(batch_size=ROWS_PER_BATCH)
            return
        with pyarrow().memory_map(self._path) as mapped:
            reader = _open_arrow(mapped)
            for batch in reader:
                for start in range(0, batch.num_rows, ROWS_PER_BATCH):
                    yield batch.slice(start, ROWS_PER_BATCH)


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
