"""Which rows are asked: conditions, then a stretch, then a shard; resumed as it was begun, numbered as in the input."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rerankq import InvalidRequest, RerankClient
from rerankq.bulk import Task
from rerankq.bulk.dry_run import dry_run
from rerankq.bulk.plan import Plan
from rerankq.cli import main
from tests.bulk.answering import AnsweringWorker
from tests.bulk.test_formats import LONG, trec
from tests.bulk.test_resume import half_done
from tests.bulk.test_run import read, rows, run, write

__all__ = ["trec"]


def chosen(path: Path | str, **options: Any) -> list[Any]:
    plan = Plan(Task(str(path), str(Path(path).parent / "out.jsonl"), **options))
    return [row.first_position for row in plan.selection.rows(plan.reader)]


FIELDS: list[dict[str, Any]] = [
    {"lang": "en", "n": 3, "ok": True, "meta": {"split": "dev"}, "tags": ["a", "b"]},
    {"lang": "de", "n": "3", "ok": False, "meta": {"split": "test"}, "tags": []},
    {"lang": "en", "n": 3.0, "ok": 1, "meta": None, "tags": ["b"], "a.b": 1},
    {"lang": None, "n": 4, "ok": "true", "tags": "b"},
]
CHOSEN: dict[str, tuple[dict[str, Any], list[int]]] = {
    "text": ({"where": ["lang=en"]}, [0, 2]),
    "as programmers write it": ({"where": ["lang == en"]}, [0, 2]),
    "not": ({"where": ["lang!=en"]}, [1, 3]),
    "all of several": ({"where": ["lang=en", "ok=true"]}, [0]),
    "a number, or its text": ({"where": ["n=3"]}, [0, 1, 2]),
    "true is not 1": ({"where": ["ok=1"]}, [2]),
    "null, or not there": ({"where": ["meta=null"]}, [2, 3]),
    "a path": ({"where": ["meta.split=test"]}, [1]),
    "any of a list": ({"where": ["tags=b"]}, [0, 2, 3]),
    "none of a list": ({"where": ["tags!=b"]}, [1]),
    "a name with a point": ({"where": ["a.b=1"]}, [2]),
    "skip": ({"skip": 3}, [3]),
    "limit": ({"limit": 2}, [0, 1]),
    "a shard": ({"shard": "2/3"}, [1]),
    "all, in their order": ({"where": ["lang!=de"], "skip": 1, "limit": 2, "shard": "2/2"}, [3]),
}


@pytest.mark.parametrize(("options", "places"), CHOSEN.values(), ids=CHOSEN)
def test_rows_are_chosen_by_conditions_then_a_stretch_then_a_shard(
    tmp_path: Path, options: dict[str, Any], places: list[int]
) -> None:
    given = write(tmp_path / "in.jsonl", [{"query": "q", "documents": ["a"], **fields} for fields in FIELDS])

    assert chosen(given, **options) == places


NO_CHOICE: dict[str, tuple[dict[str, Any], str]] = {
    "no such field": ({"where": ["speech!=en"]}, "none of the first 20 rows has a field speech; fields seen: doc"),
    "no condition": ({"where": ["lang"]}, "expected field=value or field!=value, got lang"),
    "a shard beyond": ({"shard": "9/8"}, "expected a shard as 3/8"),
    "shard 0": ({"shard": "0/8"}, "expected a shard as 3/8"),
    "no number": ({"shard": "last"}, "expected a shard as 3/8"),
    "no rows": ({"limit": 0}, "take 1 or more"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), NO_CHOICE.values(), ids=NO_CHOICE)
def test_a_choice_that_makes_no_sense_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given = write(tmp_path / "in.jsonl", rows(20))

    with pytest.raises(InvalidRequest, match=message):
        chosen(given, **options)


def test_a_field_may_come_late_and_what_cannot_be_read_is_not_dropped(tmp_path: Path) -> None:
    given = write(tmp_path / "in.jsonl", [*rows(90), "no object", {**rows(1)[0], "late": 1}])

    assert chosen(given, where=["late=1"]) == [90, 91]
    assert chosen(given, where=["late!=1"]) == list(range(91))


def test_in_a_table_the_lines_are_chosen_and_make_their_queries(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text(LONG)
    plan = Plan(Task(str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), where=["lang!=en"]))

    got = [
        (row.id, [document["id"] for document in row.documents]) for row in plan.selection.rows(plan.reader)
    ]

    assert got == [("q1", ["b"]), ("q2", ["c"])]
    assert chosen(tmp_path / "in.csv", where=["lang=zh"]) == [1]


def test_a_trec_run_is_chosen_by_its_columns(trec: dict[str, str]) -> None:
    assert chosen(trec.pop("input"), where=["qid!=q1", "rank=1"], limit=1, **trec) == [1]


def test_shards_are_disjoint_and_complete(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = write(tmp_path / "in.jsonl", [{k: v for k, v in row.items() if k != "id"} for row in rows(50)])

    for number in (1, 2, 3):
        run(client, given, tmp_path / f"out-{number}.jsonl", shard=f"{number}/3", skip=5, limit=40)

    got = [read(tmp_path / f"out-{number}.jsonl") for number in (1, 2, 3)]
    assert [line["row"] for line in got[1]] == list(range(6, 45, 3))
    assert sorted(line["row"] for lines in got for line in lines) == list(range(5, 45))
    assert all(line["row"] == line["tag"] for lines in got for line in lines)


def test_a_choice_is_resumed_as_it_was_begun(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = [{**row, "lang": "en" if row["tag"] % 2 else "de"} for row in rows(400, row101="poison")]
    path, out = write(tmp_path / "in.jsonl", given), tmp_path / "out.jsonl"
    choice: dict[str, Any] = {"where": ["lang=en"], "skip": 10, "limit": 150}
    half_done(client, path, out, **choice)

    with pytest.raises(InvalidRequest, match="begun with limit = 150, now it is None"):
        run(client, path, out, where=["lang=en"], skip=10)
    summary = run(client, path, out, **choice)

    assert summary.resumed_rows > 0
    assert [line["tag"] for line in read(out)] == [n for n in range(21, 321, 2) if n != 101]
    [failed] = (tmp_path / "out.jsonl.errors.jsonl").read_text().splitlines()
    assert json.loads(failed)["rerankq_error"]["row"] == 101


def test_a_mended_line_is_numbered_behind_the_rows_that_were_read(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, out = write(tmp_path / "in.jsonl", [*rows(30), "no object"]), tmp_path / "out.jsonl"
    run(client, given, out, where=["tag=29"])
    (tmp_path / "out.jsonl.errors.jsonl").write_text('{"query": "mended", "documents": ["a"]}\n')

    run(client, given, out, where=["tag=29"], retry_errors=True)

    assert [line.get("row", line.get("id")) for line in read(out)] == ["r29", 31]


def test_a_dry_run_with_a_limit_reads_no_further(client: RerankClient, tmp_path: Path) -> None:
    piped = tmp_path / "in.jsonl"
    piped.write_text((tmp_path / write(tmp_path / "rows.jsonl", rows(5))).read_text() + "\xff broken" * 3)

    findings = dry_run(Task(str(piped), str(tmp_path / "out.jsonl"), limit=5), client, 1.0)

    assert (findings.rows, findings.failed, findings.pairs) == (5, 0, 15)


def test_the_command_takes_conditions_several_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = write(tmp_path / "in.jsonl", rows(20))
    summary = tmp_path / "s.json"
    words = ["--where", "tag!=3", "--where", "tag!=4", "--limit", "9", "--shard", "1/2", "--dry-run"]
    monkeypatch.setattr(
        sys, "argv", ["rerankq", "bulk", given, "out.jsonl", *words, "--summary-json", str(summary)]
    )

    with pytest.raises(SystemExit):
        main()

    assert json.loads(summary.read_text())["rows"] == 5


def test_a_glob_that_the_shell_has_spread_is_told_to_be_quoted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["rerankq", "bulk", "1.jsonl", "2.jsonl", "3.jsonl", "out.jsonl"])
    monkeypatch.setenv("COLUMNS", "200")

    with pytest.raises(SystemExit):
        main()

    assert "expected one IN and one OUT, got 4 paths; quote a glob" in capsys.readouterr().err
