"""`rerankq bulk` at the command line: what it prints, and the exit code by which a script can tell how it went."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rerankq import RerankClient
from tests.bulk.answering import AnsweringWorker
from tests.bulk.test_run import read, rows, write
from tests.redis_server import RedisServer

ALL_DONE, SOME_FAILED, WRONG_USAGE, UNAVAILABLE = 0, 1, 2, 3


@pytest.fixture
def command(redis_server: RedisServer, client: RerankClient) -> Any:
    assert client.lanes()["bulk"] == 0
    environment = {
        **os.environ,
        "RERANKQ_BROKER_URL": redis_server.url,
        "RERANKQ_BULK_PATIENCE_SECONDS": "0.5",
        "COLUMNS": "200",
    }

    def start(*arguments: object, **more: Any) -> "subprocess.Popen[str]":
        words = [sys.executable, "-m", "rerankq.cli", "bulk", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(words, env=environment, **{**pipes, **more})

    return start


def test_a_file_goes_through_and_the_end_is_told_for_people_and_programs(
    command: Any, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = [{**row, "relevant": {"2": 1}} for row in rows(20)]
    summary = tmp_path / "summary.json"

    process = command(write(tmp_path / "in.jsonl", given), tmp_path / "out.jsonl", "--summary-json", summary)
    output, complaints = process.communicate(timeout=60)

    assert (process.returncode, complaints) == (ALL_DONE, "")
    assert "20" in output
    told = json.loads(summary.read_text())
    assert (told["rows"], told["failed"], told["pairs"]) == (20, 0, 60)
    assert told["quality"]["mrr_after"] > told["quality"]["mrr_before"]


def test_failed_rows_are_told_by_the_exit_code(command: Any, worker: AnsweringWorker, tmp_path: Path) -> None:
    process = command(write(tmp_path / "in.jsonl", rows(5, row2="poison")), tmp_path / "out.jsonl")
    output, _ = process.communicate(timeout=60)

    assert process.returncode == SOME_FAILED
    assert "1 (1 JobFailed); in " in output
    assert "--retry-errors asks them again" in output


def test_a_missing_input_is_wrong_usage(command: Any, tmp_path: Path) -> None:
    process = command(tmp_path / "nothing.jsonl", tmp_path / "out.jsonl")
    _, complaints = process.communicate(timeout=60)

    assert process.returncode == WRONG_USAGE
    assert "there is no file" in complaints
    assert "Traceback" not in complaints


def test_no_worker_is_unavailable_and_the_way_on_is_told(command: Any, tmp_path: Path) -> None:
    process = command(write(tmp_path / "in.jsonl", rows(5)), tmp_path / "out.jsonl")
    _, complaints = process.communicate(timeout=60)

    assert process.returncode == UNAVAILABLE
    assert "no worker takes bulk work" in complaints
    assert "To go on: rerankq bulk" in complaints


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_what_is_done_and_tells_the_command_that_goes_on(
    command: Any, redis_server: RedisServer, tmp_path: Path, number: signal.Signals
) -> None:
    given, out = write(tmp_path / "in.jsonl", rows(300)), tmp_path / "out.jsonl"
    with AnsweringWorker(redis_server, seconds_per_pack=0.05) as worker:
        process = command(given, out, "--pack-pairs", 9)
        give_up_at = time.monotonic() + 20
        while not (out.exists() and out.stat().st_size) and time.monotonic() < give_up_at:
            time.sleep(0.02)
        process.send_signal(number)
        _, complaints = process.communicate(timeout=60)

        assert process.returncode == 128 + number
        assert f"To go on: rerankq bulk {given} {out} --pack-pairs 9" in complaints
        assert 0 < len(read(out)) < 300
        worker.seconds_per_pack = 0
        again = command(given, out, "--pack-pairs", 9)
        output, _ = again.communicate(timeout=60)

    assert again.returncode == ALL_DONE
    assert "of them by an earlier run" in output
    assert [line["tag"] for line in read(out)] == list(range(300))


def test_a_pipe_takes_rows_and_gives_answers_and_nothing_else(
    command: Any, worker: AnsweringWorker, tmp_path: Path
) -> None:
    lines = Path(write(tmp_path / "in.jsonl", rows(10))).read_text()

    process = command("-", "-", stdin=subprocess.PIPE)
    output, complaints = process.communicate(lines, timeout=60)

    assert [json.loads(line)["id"] for line in output.splitlines()] == [f"r{number}" for number in range(10)]
    assert "by-length@1" in complaints


def test_a_run_that_read_a_pipe_is_not_said_to_go_on(command: Any, tmp_path: Path) -> None:
    process = command("-", tmp_path / "out.jsonl", stdin=subprocess.PIPE)
    _, complaints = process.communicate('{"query": "q", "documents": ["a"]}', timeout=60)

    assert process.returncode == UNAVAILABLE
    assert "To go on" not in complaints
    assert "a pipe is read once: --restart begins anew" in complaints


def test_a_reader_that_leaves_ends_the_run_without_a_traceback(
    command: Any, redis_server: RedisServer, tmp_path: Path
) -> None:
    given = write(tmp_path / "in.jsonl", rows(300))
    with (
        AnsweringWorker(redis_server, seconds_per_pack=0.05),
        command(given, "-", "--pack-pairs", 9) as process,
    ):
        process.stdout.readline()
        process.stdout.close()
        complaints = process.stderr.read()

    assert process.returncode == 128 + signal.SIGPIPE
    assert "Traceback" not in complaints


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_summary_that_cannot_be_printed_is_told_in_words(
    command: Any, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = write(tmp_path / "in.jsonl", rows(3))

    with Path("/dev/full").open("w") as full, command(given, tmp_path / "o.jsonl", stdout=full) as process:
        _, complaints = process.communicate(timeout=60)

    assert process.returncode == UNAVAILABLE
    assert complaints.splitlines()[-2].startswith("the output cannot be written: [Errno 28]")
    assert len(read(tmp_path / "o.jsonl")) == 3


def test_a_summary_on_stdout_stands_there_alone(
    command: Any, worker: AnsweringWorker, tmp_path: Path
) -> None:
    process = command(write(tmp_path / "in.jsonl", rows(5)), tmp_path / "out.jsonl", "--summary-json", "-")
    output, complaints = process.communicate(timeout=60)

    assert json.loads(output)["rows"] == 5
    assert "by-length@1" in complaints


def test_rows_and_their_summary_do_not_share_stdout(command: Any, tmp_path: Path) -> None:
    process = command(write(tmp_path / "in.jsonl", rows(5)), "-", "--summary-json", "/dev/stdout")
    output, complaints = process.communicate(timeout=60)

    assert (process.returncode, output) == (WRONG_USAGE, "")
    assert "stdout cannot hold the rows and their summary" in complaints


def test_a_dry_run_counts_and_estimates_without_any_redis(tmp_path: Path) -> None:
    given = [*rows(20), {"query": "", "documents": ["a"]}]
    environment = {**os.environ, "RERANKQ_BROKER_URL": "redis://127.0.0.1:1/0"}
    words = ["bulk", write(tmp_path / "in.jsonl", given), str(tmp_path / "out.jsonl"), "--dry-run"]

    done = subprocess.run(
        [sys.executable, "-m", "rerankq.cli", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == SOME_FAILED
    assert "row 20: query: expected a query, got an empty string" in done.stdout
    assert "1,569 pairs a second (one H100's; no Redis answers)" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_progress_is_told_for_programs(command: Any, redis_server: RedisServer, tmp_path: Path) -> None:
    given = write(tmp_path / "in.jsonl", rows(40))
    with AnsweringWorker(redis_server, seconds_per_pack=0.15):
        process = command(given, tmp_path / "out.jsonl", "--pack-pairs", 9, "--progress", "json")
        _, told = process.communicate(timeout=60)

    first = json.loads(told.splitlines()[0])
    assert 0 < first["rows"] < first["rows_total"] == 40
