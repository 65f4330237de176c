"""`--output-columns`: which keys or columns an output has, in which order; refused where no row has one."""

import json
from pathlib import Path
from typing import Any

import pytest

from rerankq import InvalidRequest, RerankClient
from rerankq.bulk import Task
from rerankq.bulk.plan import Plan
from tests.bulk.answering import AnsweringWorker
from tests.bulk.test_formats import BATCH, LONG
from tests.bulk.test_resume import half_done
from tests.bulk.test_run import read, rows, run, write


def _lines(path: Path) -> list[list[str]]:
    return [list(json.loads(line)) for line in path.read_text().splitlines()]


def _table(path: Path) -> list[list[str]]:
    return [path.read_text().splitlines()[0].split(",")]


def _columns(path: Path) -> list[list[str]]:
    return [pytest.importorskip("pyarrow.parquet").read_schema(path).names]


LINES = '{"id": "a", "query": "q", "documents": ["d"], "lang": "en", "results": 1, "n": 2}\n'
READ = {".jsonl": _lines, ".csv": _table, ".parquet": _columns}
SHOWN: dict[str, tuple[str, str, str, list[str]]] = {
    "keys in their order, the id in front": (LINES, ".jsonl", "results,lang", ["id", "results", "lang"]),
    "the id in its place": (LINES, ".jsonl", "lang,id", ["lang", "id"]),
    "without the id": (LINES, ".jsonl", "results,-id", ["results"]),
    "all but some": (LINES, ".jsonl", "-n,-input_results", ["id", "lang", "results"]),
    "a row without an id": (LINES.replace('"id": "a", ', ""), ".jsonl", "results", ["row", "results"]),
    "neither id nor row": (LINES.replace('"id": "a", ', ""), ".jsonl", "results,-id", ["results"]),
    "columns of a table": (LONG, ".csv", "lang,doc_id,rank", ["query_id", "lang", "doc_id", "rank"]),
    "lines as a table": (LINES, ".csv", "doc_id,extra,-query_id", ["doc_id", "extra"]),
    "columns of Parquet": (LINES, ".parquet", "lang,results", ["id", "lang", "results"]),
    "Parquet of all but some": (LINES, ".parquet", "-n,-lang,-results", ["id", "input_results"]),
    "Parquet in long form": (LONG, ".parquet", "lang,rank,doc_id,-query_id", ["lang", "rank", "doc_id"]),
}


@pytest.mark.parametrize(("given", "extension", "asked", "shown"), SHOWN.values(), ids=SHOWN)
def test_an_output_has_what_is_asked_for_in_that_order(
    client: RerankClient,
    worker: AnsweringWorker,
    tmp_path: Path,
    given: str,
    extension: str,
    asked: str,
    shown: list[str],
) -> None:
    path = tmp_path / ("in.csv" if given == LONG else "in.jsonl")
    path.write_text(given)
    out = tmp_path / f"out{extension}"

    summary = run(client, path, out, output_columns=asked.split(","))

    assert summary.failed == 0
    assert READ[extension](out) == [shown]


UNKNOWN = {
    "a key": (".jsonl", "results,language", "has a field language; fields seen: complete, id, .*lang"),
    "one to be left out": (".jsonl", "-language", "has a field language"),
    "a table's": (".csv", "rank,lang", "has a field lang; fields seen: doc_id, extra"),
    "Parquet's": (".parquet", "language", "has a field language"),
}


@pytest.mark.parametrize(("extension", "asked", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_name_that_no_row_has_is_refused_before_anything_is_asked(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, extension: str, asked: str, message: str
) -> None:
    (tmp_path / "in.jsonl").write_text(LINES)

    with pytest.raises(InvalidRequest, match=message):
        run(client, tmp_path / "in.jsonl", tmp_path / f"out{extension}", output_columns=asked.split(","))
    assert worker.packs == []
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_format_with_a_form_of_its_own_keeps_it(tmp_path: Path) -> None:
    given = write(tmp_path / "in.jsonl", BATCH)

    with pytest.raises(InvalidRequest, match="openai-batch has a form of its own"):
        Plan(Task(given, str(tmp_path / "out.jsonl"), output_columns=["id"]))


def test_columns_are_resumed_as_they_were_begun(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given, out = write(tmp_path / "in.jsonl", rows(240)), tmp_path / "out.jsonl"
    options: dict[str, Any] = {"output_columns": ["tag", "results"]}
    half_done(client, given, out, **options)

    with pytest.raises(InvalidRequest, match="begun with output columns = tag,results, now it is None"):
        run(client, given, out)
    run(client, given, out, **options)

    assert [list(line) for line in read(out)] == [["id", "tag", "results"]] * 240
