"""Parquet and Arrow: JSON lines are gathered while the run goes on, and turned into the file when it is complete.

A Parquet file cannot be appended to and is unreadable until it is closed; the gathered lines can be resumed.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from rerankq.bulk.readers.columns import pyarrow
from rerankq.contract import wire

ROWS_PER_GROUP = 10_000
_OURS = ("id", "row", "results", "complete")


def write_columns(lines: Path, target: Path, kind: Literal["parquet", "arrow"]) -> None:
    """The gathered lines as a file with the columns `id` (text), `results` and what the rows carried, as JSON text."""
    arrow = pyarrow()
    schema = _schema(arrow)
    unfinished = target.with_name(f"{target.name}.unfinished")
    with lines.open("rb") as gathered, _opened(arrow, kind, unfinished, schema) as file:
        while rows := list(islice(_rows(gathered), ROWS_PER_GROUP)):
            file.write_batch(arrow.RecordBatch.from_pylist(rows, schema=schema))
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


def _opened(arrow: Any, kind: Literal["parquet", "arrow"], path: Path, schema: Any) -> Any:
    if kind == "parquet":
        return pyarrow("parquet").ParquetWriter(path, schema, compression="zstd")
    return arrow.ipc.new_file(str(path), schema)
