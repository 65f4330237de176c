"""What a run reads it never writes, what others wrote it never touches, and what it calls done it has looked at."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rerankq import InvalidRequest, RerankClient
from rerankq.bulk.plan import Plan, Task
from rerankq.contract import wire
from tests.bulk.answering import AnsweringWorker
from tests.bulk.test_resume import half_done
from tests.bulk.test_run import read, rows, run, write


def _under_another_name(given: Path, link: Callable[[Path, Path], None]) -> Path:
    other = given.parent / "other.jsonl"
    link(given, other)
    return other


OVERLAPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "itself": lambda given: {"output": given},
    "a symlink to it": lambda given: {"output": _under_another_name(given, lambda a, b: b.symlink_to(a))},
    "a hard link to it": lambda given: {"output": _under_another_name(given, lambda a, b: b.hardlink_to(a))},
    "another spelling": lambda given: {"output": given.parent / "." / "x" / ".." / given.name},
    "the corpus": lambda given: {"input": "run.trec", "corpus": given, "queries": "q", "output": given},
    "the queries": lambda given: {"input": "run.trec", "corpus": "c", "queries": given, "output": given},
    "the judgements": lambda given: {"input": "x.jsonl", "qrels": given, "output": given},
    "the summary": lambda given: {"output": "out.jsonl", "also_written": [str(given)]},
}


@pytest.mark.parametrize("asked", OVERLAPS.values(), ids=OVERLAPS)
def test_a_file_that_is_read_is_never_written(
    tmp_path: Path, asked: Callable[[Path], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    given = Path(write(tmp_path / "in.jsonl", rows(3)))
    paths = {name: path if isinstance(path, list) else str(path) for name, path in asked(given).items()}

    with pytest.raises(InvalidRequest, match="is to be read and would be written"):
        Plan(Task(**{"input": str(given), **paths}))
    assert len(read(given)) == 3


@pytest.mark.parametrize(
    "suffix", ["errors.jsonl", "rerankq.json", "rerankq.lines.jsonl", "errors.round2.jsonl"]
)
def test_files_of_a_run_are_no_input_of_that_run(tmp_path: Path, suffix: str) -> None:
    given = write(tmp_path / f"x.jsonl.{suffix}", rows(3))

    with pytest.raises(InvalidRequest, match="is to be read and would be written"):
        Plan(Task(given, str(tmp_path / "x.jsonl"), format="jsonl"))


@pytest.mark.parametrize("chain", ["zip://a.jsonl::{}", "zip://*.jsonl::file://{}"])
def test_an_archive_that_is_read_through_is_never_written(tmp_path: Path, chain: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(write(tmp_path / "a.jsonl", rows(3)), "a.jsonl")

    with pytest.raises(InvalidRequest, match="is to be read and would be written"):
        Plan(Task(chain.format(tmp_path / "a.zip"), str(tmp_path / "a.zip"), output_format="jsonl"))


def test_a_sidecar_of_somebody_else_makes_no_run_of_ours(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given, out = write(tmp_path / "in.jsonl", rows(3)), tmp_path / "out.jsonl"
    out.write_text("precious\n")
    (tmp_path / "out.jsonl.rerankq.json").write_text('{"mine": 1}')

    for how in ({}, {"restart": True}):
        with pytest.raises(InvalidRequest, match="was not begun by"):
            run(client, given, out, **how)
    assert out.read_text() == "precious\n"


@pytest.mark.parametrize("how", [{}, {"retry_errors": True}], ids=["again", "with --retry-errors"])
def test_an_errors_file_that_is_gone_is_missed(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, how: dict[str, bool]
) -> None:
    given, out = write(tmp_path / "in.jsonl", [*rows(2), {"id": "x"}]), tmp_path / "out.jsonl"
    run(client, given, out)
    (tmp_path / "out.jsonl.errors.jsonl").unlink()

    with pytest.raises(InvalidRequest, match=r"errors\.jsonl to have at least .* it is gone"):
        run(client, given, out, **how)


def test_standard_input_that_is_the_output_is_refused(tmp_path: Path) -> None:
    given = Path(write(tmp_path / "in.jsonl", rows(3)))
    code = "import sys; from rerankq.bulk.plan import Plan, Task; Plan(Task('-', sys.argv[1]))"

    with given.open("rb") as stdin:
        done = subprocess.run(
            [sys.executable, "-c", code, str(given)], stdin=stdin, capture_output=True, text=True
        )

    assert "is to be read and would be written" in done.stderr
    assert len(read(given)) == 3


@pytest.mark.parametrize("name", ["out.jsonl.errors.jsonl", "out.jsonl.errors.round2.jsonl"])
def test_an_errors_file_of_somebody_else_is_not_emptied(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, name: str
) -> None:
    given = write(tmp_path / "in.jsonl", rows(3))
    (tmp_path / name).write_text("precious\n")

    for how in ({}, {"restart": True}):
        with pytest.raises(InvalidRequest, match=f"{name} is there already"):
            run(client, given, tmp_path / "out.jsonl", **how)
    assert (tmp_path / name).read_text() == "precious\n"


def test_an_errors_file_mended_in_place_is_read_as_it_stands(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    out, errors = tmp_path / "out.jsonl", tmp_path / "out.jsonl.errors.jsonl"
    given = rows(20, **{f"row{number}": "poison" for number in range(3, 8)})
    run(client, write(tmp_path / "in.jsonl", given), out)
    mended = errors.read_text().replace(" poison", ", which is a longer query than the one before")
    errors.write_text(mended + '{"id": "one more", "query": "q", "documents": ["a"]}\n')

    summary = run(client, tmp_path / "in.jsonl", out, retry_errors=True)

    assert (summary.rows, summary.failed) == (21, 0)
    assert sorted(line["id"] for line in read(out)) == sorted([f"r{n}" for n in range(20)] + ["one more"])


def test_failed_lines_keep_their_bytes(client: RerankClient, worker: AnsweringWorker, tmp_path: Path) -> None:
    number = 123456789012345678901234567890
    failing = [
        b'{"zeta": 1.50, "query" : "poison",  "documents": ["caf\\u00e9"], "id": %d}' % number,
        b'{"query": "a", "documents": [',
        b'{"query": "\xff\xfe", "documents": ["a"]}',
    ]
    given, errors = tmp_path / "in.jsonl", tmp_path / "out.jsonl.errors.jsonl"
    given.write_bytes(b"\n".join([wire.encode(rows(1)[0]), *failing]))
    run(client, given, tmp_path / "out.jsonl")
    first = errors.read_bytes()

    run(client, given, tmp_path / "out.jsonl", retry_errors=True)

    assert first.splitlines()[1:] == failing[1:]
    assert first.startswith(failing[0][:-1] + b',"rerankq_error":{"row":1,')
    assert errors.read_bytes() == first


def test_errors_mended_before_the_run_is_through_are_not_cut_off(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given, out = write(tmp_path / "in.jsonl", rows(200, row3="poison")), tmp_path / "out.jsonl"
    half_done(client, given, out)
    errors = tmp_path / "out.jsonl.errors.jsonl"
    errors.write_text(errors.read_text().replace("poison", "mended in place"))
    mended = errors.read_text()

    with pytest.raises(InvalidRequest, match="was changed before the run is through"):
        run(client, given, out)
    assert errors.read_text() == mended


@pytest.mark.parametrize("harm", [Path.unlink, lambda out: os.truncate(out, 0)], ids=["removed", "emptied"])
def test_a_run_that_is_done_looks_at_its_output(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    given, out = write(tmp_path / "in.jsonl", rows(9)), tmp_path / "out.jsonl"
    run(client, given, out)
    harm(out)

    with pytest.raises(InvalidRequest, match=r"out.jsonl to have at least .* --restart begins anew"):
        run(client, given, out)
    assert run(client, given, out, restart=True).rows == 9
    assert len(read(out)) == 9


def test_a_finished_parquet_stands_alone_and_is_looked_at(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    pytest.importorskip("pyarrow")
    given, out = write(tmp_path / "in.jsonl", rows(9)), tmp_path / "out.parquet"
    run(client, given, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "in.jsonl",
        "out.parquet",
        "out.parquet.rerankq.json",
    ]
    assert run(client, given, out).resumed_rows == 9
    os.truncate(out, 10)

    with pytest.raises(InvalidRequest, match=r"out.parquet to have at least"):
        run(client, given, out)


def test_a_touched_or_copied_input_still_resumes(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given, out = Path(write(tmp_path / "in.jsonl", rows(200))), tmp_path / "out.jsonl"
    half_done(client, str(given), out)
    os.utime(given)
    half_done_again = given.rename(tmp_path / "moved.jsonl")

    assert run(client, half_done_again, out).resumed_rows > 0
    assert len(read(out)) == 200


def test_a_longer_pipe_is_not_taken_for_done(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    fifo, out = tmp_path / "fifo", tmp_path / "out.jsonl"
    os.mkfifo(fifo)

    def feed(count: int) -> "subprocess.Popen[bytes]":
        path = write(tmp_path / f"{count}.jsonl", rows(count))
        return subprocess.Popen(["sh", "-c", 'cat "$0" > "$1"', path, str(fifo)])

    with feed(3):
        assert run(client, fifo, out, format="jsonl").rows == 3
    fifo.unlink()  # the first run holds its own open: a second writer might be through before anybody reads
    os.mkfifo(fifo)
    with feed(5), pytest.raises(InvalidRequest, match="a pipe cannot be compared"):
        run(client, fifo, out, format="jsonl")
