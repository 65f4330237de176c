"""Whatever the keys or columns of an input are called, each value comes out once, under a name of its own."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rerankq import RerankClient
from tests.bulk.test_run import run

OURS = (
    "row", "results", "complete", "rank", "relevance_score", "logit", "extra", "columns", "error", "index", "document",
    "truncated", "custom_id", "score",
)  # fmt: skip
CARRIED = {
    name: f"the value of {name}!" for one in OURS for name in (one, f"input_{one}", f"input_input_{one}")
}
OF_ROWS = {
    **CARRIED,
    "query_id": "the value of query_id!",
    "doc_id": "the value of doc_id!",
    "text": "the value of text!",
}
ROW = {"id": "q", "query": "q", "documents": [{"id": "d", "passage": "a"}], **OF_ROWS}
LINE = {
    "query_id": "q",
    "query": "q",
    "doc_id": "d",
    "passage": "a",
    "text": "the value of text!",
    "id": "the value of id!",
    **CARRIED,
}
CANDIDATES = {"query": {"text": "q", "qid": "q"}, "candidates": [{"docid": "d", "passage": "a"}], **OF_ROWS}


def _table(path: Path, record: dict[str, Any]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(
            [record, record.values()]
        )


def _columns(path: Path, record: dict[str, Any]) -> None:
    table = pa.Table.from_pylist([record])
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


def _json(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record))


GIVEN = {
    "jsonl": ("in.jsonl", _json, ROW),
    "rank-llm": ("in.jsonl", _json, CANDIDATES),
    "csv": ("in.csv", _table, LINE),
    "tsv": ("in.tsv", _table, LINE),
    "parquet": ("in.parquet", _columns, ROW),
    "long-parquet": ("in.parquet", _columns, LINE),
    "arrow": ("in.arrow", _columns, ROW),
    "long-arrow": ("in.arrow", _columns, LINE),
}
WRITTEN = {
    "jsonl": "out.jsonl",
    "csv": "out.csv",
    "tsv": "out.tsv",
    "parquet": "out.parquet",
    "long-parquet": "out.parquet",
    "arrow": "out.arrow",
    "long-arrow": "out.arrow",
}


def _pairs(path: Path) -> list[tuple[str, Any]]:
    """Names and values of the one record, doubled ones too."""
    if path.suffix == ".jsonl":
        return json.loads(path.read_text(), object_pairs_hook=list)
    if path.suffix in (".csv", ".tsv"):
        is_tsv = path.suffix == ".tsv"
        with path.open(newline="") as file:
            dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tsv else {}
            names, values = csv.reader(file, **dialect)
        return list(zip(names, values, strict=True))
    table = pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(str(path)).read_all()
    return [(name, column[0].as_py()) for name, column in zip(table.column_names, table.columns, strict=True)]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("written_as", WRITTEN)
@pytest.mark.parametrize("read_as", GIVEN)
def test_between_any_two_formats_no_name_takes_the_place_of_another(
    client: RerankClient, tmp_path: Path, read_as: str, written_as: str
) -> None:
    name, put, record = GIVEN[read_as]
    put(tmp_path / name, record)
    out = tmp_path / WRITTEN[written_as]

    how: dict[str, Any] = {"output_format": written_as, "with_documents": True}
    if read_as == "rank-llm" == written_as:
        how.pop("output_format")
    summary = run(client, tmp_path / name, out, format=read_as, names={"text": "passage"}, **how)

    pairs = _pairs(out)
    text = str(pairs)
    assert (summary.rows, summary.failed) == (1, 0)
    assert len({name for name, _ in pairs}) == len(pairs)
    assert [value for value in record.values() if "!" in str(value) and text.count(value) != 1] == []
