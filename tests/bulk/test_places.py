"""Where an output may go: a file of a known kind, a pipe, a device; and what is refused before anything is asked."""

import gzip
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from rerankq import InvalidRequest, RerankClient
from rerankq.bulk import Task
from rerankq.bulk.plan import Plan
from tests.bulk.answering import AnsweringWorker
from tests.bulk.test_command import ALL_DONE, UNAVAILABLE, command
from tests.bulk.test_resume import half_done, wait_for_some_output
from tests.bulk.test_run import read, rows, run, write
from tests.redis_server import RedisServer

__all__ = ["command"]

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown": ("out.xyz", {}, r"out.xyz cannot be told from its extension; known are .jsonl, .* --output-format"),
    "none": ("out", {}, "cannot be told from its extension"),
    "packed in another way": ("out.jsonl.bz2", {}, "cannot be told from its extension"),
    "packed twice": ("out.parquet.gz", {}, "parquet is compressed within"),
    "a directory": (".", {}, "is a directory; name a file in it"),
    "in none": ("nowhere/out.jsonl", {}, "there is no directory"),
    "behind a scheme": ("s3://bucket/out.jsonl", {}, "expected a path of this machine for OUT"),
    "a summary in the output's place": ("out.jsonl", {"also_written": ["out.jsonl"]}, "is written by the run itself"),
    "a summary in the sidecar's": ("o.jsonl", {"also_written": ["o.jsonl.rerankq.json"]}, "written by the run itself"),
    "a summary that is a directory": ("out.jsonl", {"also_written": ["."]}, "is a directory; name a file in it"),
    "a summary in no directory": ("out.jsonl", {"also_written": ["nowhere/s.json"]}, "there is no directory nowhere"),
}  # fmt: skip


@pytest.mark.parametrize(("out", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_a_place_where_nothing_good_can_be_written_is_refused(
    tmp_path: Path, out: str, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InvalidRequest, match=message):
        Plan(Task(write(tmp_path / "in.jsonl", rows(1)), out, **options))


MEANINGLESS: dict[str, dict[str, Any]] = {
    "columns": {"columns": ["qid", "query"]},
    "delimiter": {"delimiter": ";"},
    "quote": {"is_quoted": True},
    "queries": {"queries": "queries.jsonl"},
    "corpus": {"corpus": "corpus.jsonl"},
    "depth": {"depth": 3},
    "missing": {"skips_missing": True},
}


@pytest.mark.parametrize(("option", "asked"), MEANINGLESS.items(), ids=MEANINGLESS)
def test_an_option_that_means_nothing_to_the_format_is_refused(
    tmp_path: Path, option: str, asked: dict[str, Any]
) -> None:
    given = write(tmp_path / "in.jsonl", rows(1))

    with pytest.raises(InvalidRequest, match=f"--{option} is for .* is read as jsonl"):
        Plan(Task(given, str(tmp_path / "out.jsonl"), **asked))


def test_what_a_table_is_written_with_may_be_named_whatever_is_read(tmp_path: Path) -> None:
    given = write(tmp_path / "in.jsonl", rows(1))

    Plan(Task(given, str(tmp_path / "out.csv"), delimiter=";", is_quoted=True))


def test_a_closed_standard_input_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)

    with pytest.raises(InvalidRequest, match="standard input is closed; name a file"):
        Plan(Task("-", str(tmp_path / "out.jsonl")))


def test_an_output_of_any_name_is_written_in_the_format_that_is_named(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    run(client, write(tmp_path / "in.jsonl", rows(3)), tmp_path / "out", output_format="trec")

    assert len((tmp_path / "out").read_text().splitlines()) == 9


def test_a_name_in_capitals_is_compressed_as_well(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    run(client, write(tmp_path / "in.jsonl", rows(3)), tmp_path / "OUT.JSONL.GZ")

    assert len(gzip.decompress((tmp_path / "OUT.JSONL.GZ").read_bytes()).splitlines()) == 3


def test_a_named_pipe_is_written_as_stdout_is(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    fifo, got = tmp_path / "out.csv", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: got.extend(fifo.read_text().splitlines()))
    reader.start()

    summary = run(client, write(tmp_path / "in.jsonl", rows(3)), fifo)
    reader.join()

    assert (summary.rows, summary.errors) == (3, None)
    assert got[0].startswith("query_id,doc_id,rank")
    assert len(got) == 1 + 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.csv"]


def test_an_output_that_is_thrown_away_leaves_a_summary(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = write(tmp_path / "in.jsonl", [{**row, "relevant": {"2": 1}} for row in rows(5, row2="poison")])

    for _ in range(2):
        summary = run(client, given, "/dev/null")
        assert (summary.rows, summary.failed, summary.judged_queries) == (5, 1, 4)
    assert not Path("/dev/null.rerankq.json").exists()


STDOUTS = {"stdout's name": "/dev/stdout", "its descriptor": "/dev/fd/1"}


@pytest.mark.parametrize("name", STDOUTS.values(), ids=STDOUTS)
def test_stdout_by_another_name_holds_the_rows_alone_also_behind_a_redirection(
    command: Any, worker: AnsweringWorker, tmp_path: Path, name: str
) -> None:
    given, out = write(tmp_path / "in.jsonl", rows(3)), tmp_path / "redirected"
    out.write_text("before\n")

    with out.open("ab") as redirected:
        process = command(given, name, stdout=redirected)
        _, complaints = process.communicate(timeout=60)

    before, *got = out.read_text().splitlines()
    assert (process.returncode, before) == (ALL_DONE, "before")
    assert [json.loads(line)["id"] for line in got] == ["r0", "r1", "r2"]
    assert "by-length@1" in complaints
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "redirected"]


def test_stdin_by_its_name_is_read_also_where_a_file_stands_behind_it(
    command: Any, worker: AnsweringWorker, tmp_path: Path
) -> None:
    with Path(write(tmp_path / "in", rows(3))).open("rb") as given:
        process = command("/dev/stdin", str(tmp_path / "out.jsonl"), stdin=given)
        process.communicate(timeout=60)

    assert process.returncode == ALL_DONE
    assert len(read(tmp_path / "out.jsonl")) == 3


def test_a_standard_output_that_is_closed_is_called_that(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", None)

    with pytest.raises(InvalidRequest, match="standard output is closed"):
        run(client, write(tmp_path / "in.jsonl", rows(1)), "-")


def test_process_substitution_takes_the_rows(command: Any, worker: AnsweringWorker, tmp_path: Path) -> None:
    given, out = write(tmp_path / "in.jsonl", rows(3)), tmp_path / "out.gz"
    with (
        out.open("wb") as packed,
        subprocess.Popen(["gzip"], stdin=subprocess.PIPE, stdout=packed) as gzipping,
    ):
        assert gzipping.stdin is not None
        process = command(given, f"/dev/fd/{gzipping.stdin.fileno()}", pass_fds=[gzipping.stdin.fileno()])
        process.communicate(timeout=60)

    assert process.returncode == ALL_DONE
    assert len(gzip.decompress(out.read_bytes()).splitlines()) == 3


def test_stdout_that_is_appended_to_the_input_is_refused(command: Any, tmp_path: Path) -> None:
    given = Path(write(tmp_path / "in.jsonl", rows(3)))

    with given.open("ab") as appended:
        process = command(given, "-", stdout=appended)
        _, complaints = process.communicate(timeout=60)

    assert "is to be read and would be written" in complaints
    assert len(read(given)) == 3


def test_the_way_on_is_told_also_for_shards(command: Any, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    write(tmp_path / "shards" / "1.jsonl", rows(3))

    process = command(tmp_path / "shards", tmp_path / "out.jsonl")
    _, complaints = process.communicate(timeout=60)

    assert "To go on: rerankq bulk" in complaints


def test_an_input_that_vanishes_is_called_that_and_the_way_on_is_told(
    command: Any, redis_server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / "shards").mkdir()
    for number in range(2):
        write(tmp_path / "shards" / f"{number}.jsonl", rows(300))
    out = tmp_path / "out.jsonl"
    with AnsweringWorker(redis_server, seconds_per_pack=0.05) as worker:
        process = command(tmp_path / "shards", out, "--pack-pairs", 9)
        wait_for_some_output(out)
        (tmp_path / "shards" / "1.jsonl").unlink()
        worker.seconds_per_pack = 0
        _, complaints = process.communicate(timeout=60)

    assert process.returncode == UNAVAILABLE
    assert "1.jsonl was there when the run began and is gone" in complaints
    assert "To go on: rerankq bulk" in complaints


def test_a_setting_that_is_left_out_later_refuses_to_resume(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given, out = write(tmp_path / "in.jsonl", rows(240)), tmp_path / "out.jsonl"
    half_done(client, given, out, encoding="latin-1")

    with pytest.raises(InvalidRequest, match=r"begun with encoding = latin-1, now it is None"):
        run(client, given, out)
