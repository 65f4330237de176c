"""Columns keep their types from file to file, and those of JSON lines and CSV get fitting ones."""

import csv
import datetime as dt
import decimal
import json
from pathlib import Path
from typing import Any

import pytest

from rerankq import InvalidRequest, RerankClient
from rerankq.bulk.evaluate import evaluate
from rerankq.bulk.formats.arrow_types import as_json
from rerankq.bulk.formats.columns import BATCH_BYTES
from rerankq.contract import wire
from tests.bulk.answering import AnsweringWorker
from tests.bulk.test_formats import LONG, REQUESTS, understood
from tests.bulk.test_run import read, rows, run, write

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

MOMENT = dt.datetime(2026, 11, 26, 4, 30, tzinfo=dt.UTC)
COLUMNS = {
    "date": pa.array([dt.date(2026, 11, 26), None]),
    "time": pa.array([dt.time(4, 30, 0, 5), None]),
    "nanoseconds": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns")),
    "a zone": pa.array([MOMENT, None], pa.timestamp("us", "Europe/Paris")),
    "milliseconds": pa.array([1, None], pa.duration("ms")),
    "money": pa.array([decimal.Decimal("10.50"), None], pa.decimal128(20, 2)),
    "bytes": pa.array([b"\xff\x00", b"text"]),
    "small": pa.array([7, None], pa.int8()),
    "unsigned": pa.array([2**64 - 1, None], pa.uint64()),
    "single": pa.array([0.1, float("nan")], pa.float32()),
    "flag": pa.array([True, None]),
    "few words": pa.array(["a", None]).dictionary_encode(),
    "vector": pa.array([[0.5, 2.0], None], pa.list_(pa.float32())),
    "nested": pa.array([{"at": [dt.date(2026, 1, 2)], "n": 1}, None]),
    "a map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())),
    "nothing": pa.nulls(2),
}


def table(**more: Any) -> Any:
    return pa.table({**{name: [row[name] for row in REQUESTS] for name in REQUESTS[0]}, **more})


def put(path: Path, content: Any) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(content, path)
    else:
        with pa.ipc.new_file(str(path), content.schema) as file:
            file.write_table(content)
    return path


def got(path: Path) -> Any:
    return pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(str(path)).read_all()


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_every_column_comes_out_under_its_name_in_the_type_and_values_it_had(
    client: RerankClient, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rerankq.bulk.formats.gathered.LINES_BYTES", 1)
    monkeypatch.setattr("rerankq.bulk.formats.gathered.GROUP_BYTES", 1)
    given = table(**COLUMNS, id=pa.array([7, 8], pa.int32()))

    run(client, put(tmp_path / f"in.{kind}", given), tmp_path / f"out.{kind}")

    out = got(tmp_path / f"out.{kind}")
    expected = got(tmp_path / f"in.{kind}").select(["id", *COLUMNS])
    assert out.column_names == ["id", "results", *COLUMNS]
    assert out.select(["id", *COLUMNS]).schema.equals(expected.schema)
    for name in COLUMNS:
        assert str(out[name].combine_chunks()) == str(expected[name].combine_chunks())


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_few_words_within_a_list_are_words(
    client: RerankClient, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rerankq.bulk.formats.gathered.LINES_BYTES", 1)
    words = pa.array([["a", "b"], ["b"]]).cast(pa.list_(pa.dictionary(pa.int8(), pa.string())))

    run(client, put(tmp_path / f"in.{kind}", table(words=words)), tmp_path / f"out.{kind}")

    assert got(tmp_path / f"out.{kind}")["words"].to_pylist() == [["a", "b"], ["b"]]


@pytest.mark.usefixtures("worker")
def test_values_of_json_lines_get_the_type_that_they_have_in_common(
    client: RerankClient, tmp_path: Path
) -> None:
    columns: dict[str, tuple[Any, Any]] = {
        "whole": (1, 2),
        "real": (1, 2.5),
        "flag": (True, None),
        "word": ("a", "b"),
        "list": ([1], []),
        "object": ({"a": 1}, {"b": "x"}),
        "mixed": (1, "a"),
        "huge": (2**70, 1),
        "relevant": ({"a": 1}, {"c": 2}),
        "empty": (None, None),
    }
    rows = [{**row, **{n: v[place] for n, v in columns.items()}} for place, row in enumerate(REQUESTS)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, [*rows, {**REQUESTS[0], "id": "q3"}])))

    run(client, tmp_path / "in.jsonl", tmp_path / "out.parquet")

    out = got(tmp_path / "out.parquet")
    assert {name: str(out.schema.field(name).type) for name in columns} == {
        "whole": "int64",
        "real": "double",
        "flag": "bool",
        "word": "string",
        "list": "list<element: int64>",
        "object": "struct<a: int64, b: string>",
        "mixed": "string",
        "huge": "string",
        "relevant": "string",
        "empty": "string",
    }
    assert out["mixed"].to_pylist() == ["1", '"a"', None]
    assert out["huge"].to_pylist() == [str(2**70), "1", None]
    assert wire.decode(out["relevant"][1].as_py()) == {"c": 2}
    assert out["whole"].to_pylist() == [1, 2, None]


IDS = {
    "whole numbers": ([7, 8], pa.int64(), [7, 8]),
    "words": (["a", "b"], pa.string(), ["a", "b"]),
    "both": ([7, "b"], pa.string(), ["7", "b"]),
    "of thirty digits": ([10**30, 1], pa.string(), [str(10**30), "1"]),
}


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("ids", "kind", "expected"), IDS.values(), ids=IDS)
def test_an_id_is_of_the_callers_own_type(
    client: RerankClient, tmp_path: Path, ids: list[Any], kind: Any, expected: list[Any]
) -> None:
    rows = [{**row, "id": name} for row, name in zip(REQUESTS, ids, strict=True)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))

    run(client, tmp_path / "in.jsonl", tmp_path / "out.parquet")

    column = got(tmp_path / "out.parquet")["id"]
    assert (column.type, column.to_pylist()) == (kind, expected)


@pytest.mark.usefixtures("worker")
def test_rows_without_an_id_are_named_by_their_place(client: RerankClient, tmp_path: Path) -> None:
    given = table().drop_columns(["id"]).append_column("row", pa.array(["x", "y"]))

    run(client, put(tmp_path / "in.parquet", given), tmp_path / "out.parquet")

    out = got(tmp_path / "out.parquet")
    assert out.select(["id", "row", "input_row"]).to_pydict() == {
        "id": [None, None],
        "row": [0, 1],
        "input_row": ["x", "y"],
    }


@pytest.mark.usefixtures("worker")
def test_the_ids_of_documents_keep_their_type_too(client: RerankClient, tmp_path: Path) -> None:
    given = table(documents=[[{"id": 1, "text": "a"}, {"id": 2, "text": "bb"}], [{"id": 3, "text": "c"}]])

    run(client, put(tmp_path / "in.parquet", given), tmp_path / "out.parquet")

    results = got(tmp_path / "out.parquet")["results"].to_pylist()
    assert [[result["id"] for result in row] for row in results] == [[2, 1], [3]]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("given", ["in.jsonl", "in.parquet", "long.parquet"])
@pytest.mark.parametrize("out", ["out.parquet", "out.arrow"])
def test_a_run_of_no_rows_leaves_a_file_that_can_be_read(
    client: RerankClient, tmp_path: Path, given: str, out: str
) -> None:
    write(tmp_path / "in.jsonl", [])
    put(tmp_path / "in.parquet", table(id=pa.array([7, 8])).slice(0, 0))
    put(tmp_path / "long.parquet", long_table().slice(0, 0))

    run(client, tmp_path / given, tmp_path / out)

    empty = got(tmp_path / out)
    assert empty.num_rows == 0
    assert empty.column_names[:2] == (["query_id", "doc_id"] if "long" in given else ["id", "results"])


def test_a_failed_row_is_mended_and_comes_out_in_its_types(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = put(tmp_path / "in.parquet", table(**COLUMNS, query=["poison", "q"]))
    out, errors = tmp_path / "out.parquet", tmp_path / "out.parquet.errors.jsonl"
    run(client, given, out)
    errors.write_text(errors.read_text().replace("poison", "mended").replace("2026-11-26", "2027-01-01", 1))

    run(client, given, out, retry_errors=True)

    assert got(out).schema.field("money").type == pa.decimal128(20, 2)
    assert got(out)["date"].to_pylist() == [None, dt.date(2027, 1, 1)]
    assert got(out)["bytes"].to_pylist() == [b"text", b"\xff\x00"]


@pytest.mark.usefixtures("worker")
def test_a_mended_value_of_another_type_changes_its_column_and_loses_nothing(
    client: RerankClient, tmp_path: Path
) -> None:
    given = put(tmp_path / "in.parquet", table(**COLUMNS, query=["poison", "q"]))
    out, errors = tmp_path / "out.parquet", tmp_path / "out.parquet.errors.jsonl"
    run(client, given, out)
    row = {**read(errors)[0], "query": "mended", "small": "seven", "nested": {"new": 1}, "few words": [1]}
    write(errors, [row])

    run(client, given, out, retry_errors=True)

    assert got(out)["small"].to_pylist() == [None, "seven"]
    assert got(out)["nested"].to_pylist() == [None, {"new": 1}]
    assert got(out)["few words"].to_pylist() == [None, [1]]


def long_table(ids: Any = (1, 1, 2)) -> Any:
    columns = {
        "query_id": pa.array(ids, pa.int32()),
        "query": ["first", "first", "second"],
        "doc_id": pa.array([10, 11, 12]),
        "text": ["one", "eleven", "two"],
        "at": pa.array([dt.date(2026, 1, day) for day in (1, 2, 3)]),
        "rank": [1, 2, 1],
    }
    return pa.table(columns)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_row_per_document_is_told_by_its_columns_and_comes_back_so(
    client: RerankClient, tmp_path: Path, kind: str
) -> None:
    run(client, put(tmp_path / f"in.{kind}", long_table()), tmp_path / f"out.{kind}", with_documents=True)

    out = got(tmp_path / f"out.{kind}")
    assert [f"{field.name} {field.type}" for field in out.schema] == [
        "query_id int32",
        "doc_id int64",
        "rank int32",
        "relevance_score float",
        "logit float",
        "at date32[day]",
        "input_rank int64",
        "text string",
    ]
    assert out.select(["query_id", "doc_id", "rank", "input_rank", "text"]).to_pylist() == [
        {"query_id": 1, "doc_id": 11, "rank": 1, "input_rank": 2, "text": "eleven"},
        {"query_id": 1, "doc_id": 10, "rank": 2, "input_rank": 1, "text": "one"},
        {"query_id": 2, "doc_id": 12, "rank": 1, "input_rank": 1, "text": "two"},
    ]


def test_a_query_s_rows_go_on_across_row_groups_and_files(tmp_path: Path) -> None:
    pq.write_table(long_table(), tmp_path / "one.parquet", row_group_size=1)
    parts = tmp_path / "parts"
    parts.mkdir()
    for place in range(3):
        put(parts / f"part-{place}.parquet", long_table().slice(place, 1))

    for path in (tmp_path / "one.parquet", parts):
        assert [(row.id, len(row.documents)) for row in understood(path)] == [(1, 2), (2, 1)]


LONG_FAULTS = {
    "in two places": ([1, 2, 1], "lines of query 1 to be neighbours"),
    "without an id": ([None, 1, 1], "query_id: expected an id"),
    "two queries under one id": ([0, 0, 0], "lines of 0 differ in query"),
}


@pytest.mark.parametrize(("ids", "reason"), LONG_FAULTS.values(), ids=LONG_FAULTS)
def test_the_rules_of_the_long_form_are_those_of_csv(tmp_path: Path, ids: list[Any], reason: str) -> None:
    path = put(tmp_path / "in.parquet", long_table(ids))

    try:
        told = str(understood(path)[0].error)
    except InvalidRequest as refused:
        told = str(refused)

    assert reason in told


@pytest.mark.usefixtures("worker")
def test_a_csv_becomes_a_row_per_document_unless_told_otherwise(client: RerankClient, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(LONG)

    run(client, tmp_path / "in.csv", tmp_path / "out.parquet")
    run(client, tmp_path / "in.csv", tmp_path / "wide.parquet", output_format="parquet")
    run(client, write(tmp_path / "in.jsonl", REQUESTS), tmp_path / "long", output_format="long-arrow")

    assert got(tmp_path / "out.parquet").select(["query_id", "doc_id", "lang"]).to_pylist() == [
        {"query_id": "q1", "doc_id": "b", "lang": "fr"},
        {"query_id": "q1", "doc_id": "a", "lang": "en"},
        {"query_id": "q2", "doc_id": "c", "lang": "zh"},
    ]
    assert got(tmp_path / "wide.parquet").column_names == ["id", "results", "columns"]
    assert got(tmp_path / "long")["doc_id"].to_pylist() == ["b", "a", "c"]


def test_the_errors_of_a_long_parquet_are_mended_and_asked_again(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = put(tmp_path / "in.parquet", long_table([1, 1, 1]))
    out, errors = tmp_path / "out.parquet", tmp_path / "out.parquet.errors.jsonl"
    assert run(client, given, out).failed == 1
    write(errors, [{**read(errors)[0], "query": "mended"}])

    assert run(client, given, out, retry_errors=True).failed == 0

    assert got(out).select(["query_id", "doc_id", "at"]).to_pylist()[0] == {
        "query_id": 1,
        "doc_id": 11,
        "at": dt.date(2026, 1, 2),
    }


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("name", ["out.parquet", "out.arrow"])
@pytest.mark.parametrize("form", ["wide", "long"])
def test_an_output_of_either_form_and_any_id_is_judged(
    client: RerankClient, tmp_path: Path, name: str, form: str
) -> None:
    documents = [[{"id": 10, "text": "a"}, {"id": 11, "text": "bb"}]]
    wide = pa.table({"id": [1], "query": ["q"], "documents": documents})
    run(client, put(tmp_path / "in.parquet", {"wide": wide, "long": long_table()}[form]), tmp_path / name)
    (tmp_path / "qrels.tsv").write_text("1\t11\t1\n")

    assert evaluate(str(tmp_path / name), str(tmp_path / "qrels.tsv")).quality["mrr_after"] == 1


@pytest.mark.usefixtures("worker")
def test_a_key_called_as_our_own_for_lines_is_carried_like_any_other(
    client: RerankClient, tmp_path: Path
) -> None:
    given = write(tmp_path / "in.jsonl", [{**row, "columns": ["a", 1], "rank": 7} for row in REQUESTS])

    run(client, given, tmp_path / "out.parquet", output_format="long-parquet")

    assert got(tmp_path / "out.parquet")["columns"].to_pylist() == ['["a",1]'] * 3
    assert got(tmp_path / "out.parquet")["input_rank"].to_pylist() == [7] * 3


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_row_that_was_mended_to_other_documents_has_what_is_left(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, name: str
) -> None:
    (tmp_path / "in.csv").write_text(LONG.replace("first", "poison"))
    run(client, tmp_path / "in.csv", tmp_path / name)
    errors = tmp_path / f"{name}.errors.jsonl"
    [row] = read(errors)
    write(errors, [{**row, "query": "mended", "documents": [*row["documents"], "the longest of them all"]}])

    assert run(client, tmp_path / "in.csv", tmp_path / name, retry_errors=True).failed == 0

    path = tmp_path / name
    rows = list(csv.DictReader(path.read_text().splitlines())) if name == "out.csv" else got(path).to_pylist()
    assert [row["lang"] or None for row in rows[1:]] == [None, "fr", "en"]


@pytest.mark.parametrize("name", ["in.parquet", "in.arrow"])
def test_one_row_group_or_batch_is_read_by_the_megabyte(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"query": f"q{number}", "documents": [f"{number} {'text' * 500}"] * 5} for number in range(600)]
    put(tmp_path / name, pa.Table.from_pylist(rows).combine_chunks())
    sizes: list[int] = []

    def noted(array: Any) -> list[Any]:
        sizes.append(array.nbytes)
        return as_json(array)

    monkeypatch.setattr("rerankq.bulk.formats.columns.as_json", noted)

    assert len(understood(tmp_path / name)) == 600
    assert max(sizes) < 1.1 * BATCH_BYTES < sum(sizes) / 2


@pytest.mark.usefixtures("worker")
def test_a_file_is_written_by_the_megabyte(
    client: RerankClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rerankq.bulk.formats.gathered.LINES_BYTES", 1000)
    monkeypatch.setattr("rerankq.bulk.formats.gathered.GROUP_BYTES", 1000)

    run(client, write(tmp_path / "in.jsonl", rows(50)), tmp_path / "out.parquet")

    groups = pq.ParquetFile(tmp_path / "out.parquet").metadata
    assert groups.num_rows == 50
    assert groups.num_row_groups > 2
