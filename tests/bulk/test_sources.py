"""Where an input may lie: in several files, behind a scheme, in a pipe; and what is told when it is not there."""

import gzip
import io
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rerankq import InvalidRequest, InvalidSettings, RerankClient
from rerankq.bulk import BulkRun
from rerankq.bulk.formats.shards import files_of
from rerankq.bulk.plan import Plan, Task
from rerankq.contract import wire
from tests.bulk.answering import AnsweringWorker
from tests.bulk.test_formats import LONG, REQUESTS, asked, lines, understood
from tests.bulk.test_resume import half_done
from tests.bulk.test_run import read, rows, run, write

NUMBERED = [{**REQUESTS[0], "id": f"q{number}"} for number in range(3)]


def _jsonl(path: Path, requests: list[dict[str, Any]]) -> None:
    write(path, requests)


def _array(path: Path, requests: list[dict[str, Any]]) -> None:
    path.write_bytes(wire.encode(requests))


def _packed(path: Path, requests: list[dict[str, Any]]) -> None:
    pack = {1: gzip.compress, 2: wire.compress}.get(int(path.stem[-1]), bytes)  # of each kind one
    path.write_bytes(pack(lines(requests)))


def _csv(path: Path, requests: list[dict[str, Any]]) -> None:
    columns = ["query_id", "query", "doc_id", "text"]
    columns = columns[::-1] if path.stem.endswith("2") else columns  # each file has its own header
    table = [
        {"query_id": row["id"], "query": row["query"], "doc_id": document["id"], "text": document["text"]}
        for row in requests
        for document in row["documents"]
    ]
    path.write_text(
        "\n".join(",".join(line) for line in [columns, *([line[c] for c in columns] for line in table)])
    )


def _parquet(path: Path, requests: list[dict[str, Any]]) -> None:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(requests), path)


def _arrow(path: Path, requests: list[dict[str, Any]]) -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.Table.from_pylist(requests)
    with arrow.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


KINDS: dict[str, tuple[str, Callable[[Path, list[dict[str, Any]]], None]]] = {
    "JSON lines": ("jsonl", _jsonl),
    "JSON arrays": ("json", _array),
    "several kinds of compression": ("jsonl", _packed),
    "tables": ("csv", _csv),
    "Parquet": ("parquet", _parquet),
    "Arrow": ("arrow", _arrow),
}


@pytest.mark.parametrize(("extension", "make"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("pattern", ["", "/part-*"], ids=["directory", "glob"])
def test_several_files_are_one_input_in_the_order_of_their_numbers(
    tmp_path: Path, extension: str, make: Callable[[Path, list[dict[str, Any]]], None], pattern: str
) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, row in zip((1, 2, 10), NUMBERED, strict=True):
        make(shards / f"part-{number}.{extension}", [row])

    assert asked(understood(f"{shards}{pattern}")) == NUMBERED


def test_a_query_whose_lines_span_two_tables_is_one_query(tmp_path: Path) -> None:
    header, *lines_ = LONG.splitlines()
    (tmp_path / "1.csv").write_text(f"{header}\n{lines_[0]}\n")
    (tmp_path / "2.csv").write_text("\n".join([header, *lines_[1:]]))

    assert asked(understood(tmp_path)) == REQUESTS


WRONG_SHARDS: dict[str, tuple[dict[str, str], str]] = {
    "a query in two places": (
        {"1.csv": LONG, "2.csv": LONG},
        "lines of query q1 to be neighbours",
    ),
    "other columns": (
        {"1.csv": LONG, "2.csv": "query_id,query,text\nq,q,t\n"},
        "line 1 of .*2.csv: expected the columns of the first file",
    ),
    "several formats": ({"1.csv": LONG, "2.jsonl": "{}\n"}, "of several formats, as .*1.csv and .*2.jsonl"),
    "an unknown one": ({"1.jsonl": "{}\n", "2.jsonl.bz2": "BZ"}, "2.jsonl.bz2 cannot be told"),
    "nothing": ({"README.md": "read me", "_SUCCESS": "", "empty.jsonl": ""}, "there is no file with data in"),
}


@pytest.mark.parametrize(("files", "message"), WRONG_SHARDS.values(), ids=WRONG_SHARDS)
def test_files_that_make_no_input_together_are_named(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)

    with pytest.raises(InvalidRequest, match=message):
        understood(tmp_path)


def test_what_is_no_data_is_left_out_of_a_directory_but_not_of_a_glob_that_asks_for_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "lang=en").mkdir()
    (tmp_path / "_temporary").mkdir()
    data = ["lang=en/part-0.jsonl", "part-1.jsonl"]
    others = [
        "_SUCCESS",
        ".part-1.jsonl.crc",
        "README.md",
        "LICENSE",
        "dataset_info.json",
        "_temporary/a.jsonl",
    ]
    for name in [*data, *others]:
        (tmp_path / name).write_text("{}\n")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "part-2.jsonl").touch()  # Spark leaves empty ones

    def named(path: str) -> list[str]:
        return [str(Path(name).relative_to(tmp_path)) for name in files_of(f"{tmp_path}{path}")]

    assert named("") == data
    assert named("/*.md") == ["README.md"]
    assert named("/**/part-*") == data


def test_a_file_whose_name_is_a_glob_is_that_file(tmp_path: Path) -> None:
    given = write(tmp_path / "in[1].jsonl", REQUESTS)

    assert files_of(given) == [given]


def _shards(directory: Path, count: int = 4, of: int = 60) -> list[Path]:
    directory.mkdir()
    given = rows(count * of)
    return [
        Path(write(directory / f"part-{number}.jsonl", given[number * of : (number + 1) * of]))
        for number in range(count)
    ]


def test_a_run_over_shards_is_resumed_wherever_they_have_gone(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    shards, out = _shards(tmp_path / "shards"), tmp_path / "out.jsonl"
    half_done(client, str(tmp_path / "shards"), out)
    os.utime(shards[1])
    (tmp_path / "shards").rename(tmp_path / "moved")

    summary = run(client, tmp_path / "moved", out)

    assert summary.resumed_rows > 0
    assert [line["tag"] for line in read(out)] == list(range(240))
    assert set(worker.scored.values()) == {1}


CHANGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "added": (
        lambda shards: write(shards / "part-9.jsonl", REQUESTS),
        r"4 files and has 5: .*part-9.jsonl was added",
    ),
    "removed": (
        lambda shards: (shards / "part-1.jsonl").unlink(),
        r"4 files and has 3: .*part-1.jsonl is gone",
    ),
    "changed": (
        lambda shards: write(shards / "part-2.jsonl", REQUESTS),
        r"input .*part-2.jsonl is not the one",
    ),
}


@pytest.mark.parametrize(("change", "message"), CHANGED.values(), ids=CHANGED)
def test_other_shards_refuse_to_resume(
    client: RerankClient,
    worker: AnsweringWorker,
    tmp_path: Path,
    change: Callable[[Path], object],
    message: str,
) -> None:
    _shards(tmp_path / "shards")
    half_done(client, str(tmp_path / "shards"), tmp_path / "out.jsonl")
    change(tmp_path / "shards")

    with pytest.raises(InvalidRequest, match=message):
        run(client, tmp_path / "shards", tmp_path / "out.jsonl")


def test_an_output_among_the_shards_is_not_read_by_the_next_run(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    shards = _shards(here, count=2, of=5)
    shards[1].write_text(shards[1].read_text() + '{"query": 1}\n')

    first = run(client, here, here / "ranked.jsonl")
    again = run(client, here, here / "ranked.jsonl", restart=True)
    other = run(client, f"{here}/*.jsonl", tmp_path / "other.jsonl")

    assert first.rows == again.rows == other.rows == 11
    assert files_of(f"{here}/*.errors.jsonl") == [f"{here}/ranked.jsonl.errors.jsonl"]


def test_outputs_in_a_directory_without_their_inputs_are_data_also_under_the_same_names(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    (tmp_path / "stage").mkdir()
    outs = [str(tmp_path / "stage" / f"{number}.jsonl") for number in range(2)]
    for number, out in enumerate(outs):
        run(client, write(tmp_path / f"{number}.jsonl", [*rows(2), {}]), out)

    assert files_of(str(tmp_path / "stage")) == outs


def test_an_output_of_somebody_else_among_the_shards_is_not_written(tmp_path: Path) -> None:
    shards = _shards(tmp_path / "shards")

    with pytest.raises(InvalidRequest, match=r"part-3.jsonl is to be read and would be written"):
        Plan(Task(str(tmp_path / "shards"), str(shards[3])))


def test_a_row_that_failed_names_its_file_and_line(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    shards = _shards(tmp_path / "shards", count=2, of=3)
    shards[1].write_text(
        "\n" + shards[1].read_text() + "{\n" + wire.encode(rows(1, row0="poison")[0]).decode()
    )

    run(client, tmp_path / "shards", tmp_path / "out.jsonl")

    broken, poison = (tmp_path / "out.jsonl.errors.jsonl").read_text().splitlines()
    assert broken == "{"  # as it came: no room for a reason
    reason = json.loads(poison)["rerankq_error"]
    assert (reason["row"], reason["file"], reason["line"]) == (7, str(shards[1]), 6)
    run(client, tmp_path / "shards", tmp_path / "out.jsonl", retry_errors=True)
    assert (tmp_path / "out.jsonl.errors.jsonl").read_text().splitlines() == [broken, poison]


def test_a_name_that_is_no_utf_8_is_one_like_any_other(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    (tmp_path / "shards").mkdir()
    names = [os.fsdecode(b"\xff-1.jsonl"), "2.jsonl"]
    for name in names:
        write(tmp_path / "shards" / name, [*rows(1), {"query": "q"}])

    for _ in range(2):
        assert run(client, tmp_path / "shards", tmp_path / "out.jsonl").rows == 4
    files = [line["rerankq_error"]["file"] for line in read(tmp_path / "out.jsonl.errors.jsonl")]
    assert files == [f"{tmp_path}/shards/2.jsonl", f"{tmp_path}/shards/\\udcff-1.jsonl"]


def test_a_row_of_columns_that_failed_names_its_file(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    (tmp_path / "shards").mkdir()
    for number, row in enumerate(rows(2, row1="poison")):
        _parquet(tmp_path / "shards" / f"{number}.parquet", [row])

    run(client, tmp_path / "shards", tmp_path / "out.jsonl")

    [line] = read(tmp_path / "out.jsonl.errors.jsonl")
    assert line["rerankq_error"]["file"] == str(tmp_path / "shards" / "1.parquet")
    assert "line" not in line["rerankq_error"]


def test_a_shard_that_vanishes_is_called_an_input_that_is_gone(tmp_path: Path) -> None:
    shards = _shards(tmp_path / "shards")
    reader = Plan(Task(str(tmp_path / "shards"), str(tmp_path / "out.jsonl"))).reader
    shards[2].unlink()

    with pytest.raises(
        InvalidRequest, match=r"input .*part-2.jsonl was there when the run began and is gone"
    ):
        list(reader.records())
    assert reader.fraction_read() == pytest.approx(0.5, abs=0.1)


def test_the_input_of_a_run_may_be_taken_away_while_it_is_read(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = Path(write(tmp_path / "in.jsonl", rows(100)))

    class Removing:
        def show(self, _snapshot: Any) -> None:
            given.unlink(missing_ok=True)

        def close(self) -> None: ...

    assert (
        BulkRun(Task(str(given), str(tmp_path / "out.jsonl")), client, progress=Removing()).run().rows == 100
    )


@pytest.fixture
def memory() -> Iterator[Any]:
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


def test_every_file_that_is_read_may_lie_behind_a_scheme(
    client: RerankClient, worker: AnsweringWorker, memory: Any, tmp_path: Path
) -> None:
    corpus = [{"_id": d["id"], "text": d["text"]} for row in REQUESTS for d in row["documents"]]
    for name, content in {
        "run.trec": b"q1 Q0 a 1 2 x\nq1 Q0 b 2 1 x\nq2 Q0 c 1 1 x\n",
        "corpus/1.jsonl": lines(corpus[:1]),
        "corpus/2.jsonl.gz": gzip.compress(lines(corpus[1:])),
        "queries.jsonl": lines([{"_id": row["id"], "text": row["query"]} for row in REQUESTS]),
        "qrels.tsv": b"q1 0 b 1\n",
    }.items():
        memory.pipe(f"/bucket/{name}", content)
    here = "memory://bucket"

    summary = run(
        client, f"{here}/run.trec", tmp_path / "out.trec",
        corpus=f"{here}/corpus", queries=f"{here}/queries.jsonl", qrels=f"{here}/qrels.tsv",
    )  # fmt: skip

    assert (summary.rows, summary.failed, summary.quality["mrr_after"]) == (2, 0, 1.0)


@pytest.mark.parametrize(("extension", "make"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("pattern", ["/shards", "/shards/part-*"], ids=["directory", "glob"])
def test_remote_shards_of_every_format_are_one_input(
    memory: Any,
    tmp_path: Path,
    extension: str,
    make: Callable[[Path, list[dict[str, Any]]], None],
    pattern: str,
) -> None:
    for number, row in zip((1, 2, 10), NUMBERED, strict=True):
        name = f"part-{number}.{extension}"
        make(tmp_path / name, [row])
        memory.pipe(f"/shards/{name}", (tmp_path / name).read_bytes())

    assert asked(understood_from(f"memory:/{pattern}", tmp_path)) == NUMBERED


CHAINS = {
    "a file in an archive": ("zip://shards/1.jsonl::memory://a.zip", NUMBERED[:1]),
    "a folder in one": ("zip://shards::memory://a.zip", NUMBERED),
    "a glob in one": ("zip://*/*.jsonl::memory://a.zip", NUMBERED),
}


@pytest.mark.parametrize(("given", "requests_"), CHAINS.values(), ids=CHAINS)
def test_an_archive_is_read_through(
    memory: Any, tmp_path: Path, given: str, requests_: list[dict[str, Any]]
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number, row in enumerate(NUMBERED, start=1):
            archive.writestr(f"shards/{number}.jsonl", lines([row]))
    memory.pipe("/a.zip", packed.getvalue())

    assert asked(understood_from(given, tmp_path)) == requests_


def understood_from(given: str, tmp_path: Path) -> list[Any]:
    reader = Plan(Task(given, str(tmp_path / "out.jsonl"))).reader
    return [reader.row(record) for record in reader.records()]


def test_a_remote_input_that_changed_refuses_to_resume(
    client: RerankClient, worker: AnsweringWorker, memory: Any, tmp_path: Path
) -> None:
    longer_than_a_head = {"query": "q", "documents": ["a" * 70_000], "tag": -1}
    content = lines([longer_than_a_head, *rows(240)])
    memory.pipe("/in.jsonl", content)
    half_done(client, "memory://in.jsonl", tmp_path / "out.jsonl")
    half_done(client, "memory://in.jsonl", tmp_path / "changed.jsonl")

    assert run(client, "memory://in.jsonl", tmp_path / "out.jsonl").resumed_rows > 0
    assert len(read(tmp_path / "out.jsonl")) == 241
    memory.pipe("/in.jsonl", content[:-30] + content[-30:].swapcase())
    with pytest.raises(InvalidRequest, match="its content was changed since"):
        run(client, "memory://in.jsonl", tmp_path / "changed.jsonl")


NO_WAY_IN: dict[str, tuple[str, type[Exception], str]] = {
    "no driver": (
        "s3://bucket/in.jsonl",
        InvalidSettings,
        "s3:// needs a driver that is not installed: Install s3fs",
    ),
    "no such scheme": (
        "nonsense://in.jsonl",
        InvalidRequest,
        "cannot be read: ValueError: Protocol not known",
    ),
    "no such file": ("memory://in.jsonl", InvalidRequest, "there is no file memory://in.jsonl"),
}


@pytest.mark.parametrize(("given", "error", "message"), NO_WAY_IN.values(), ids=NO_WAY_IN)
def test_a_remote_input_that_is_out_of_reach_says_what_to_do(
    tmp_path: Path, given: str, error: type[Exception], message: str
) -> None:
    pytest.importorskip("fsspec")

    with pytest.raises(error, match=message):
        Plan(Task(given, str(tmp_path / "out.jsonl")))


@pytest.mark.parametrize("when", ["info", "open"])
def test_a_driver_s_own_error_is_one_of_ours_and_later_than_the_beginning_worth_another_try(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    memory.pipe("/in.jsonl", lines(REQUESTS))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the driver's own")

    monkeypatch.setattr(type(memory), when, fail)

    with pytest.raises(
        InvalidRequest, match=r"in.jsonl cannot be read: RuntimeError: the driver's own"
    ) as told:
        understood_from("memory://in.jsonl", tmp_path)
    assert told.value.retryable == (when == "open")


def test_without_fsspec_a_scheme_says_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec.core", None)

    with pytest.raises(InvalidSettings, match=r"s3:// needs fsspec.*rerankq\[bulk\]"):
        Plan(Task("s3://bucket/in.jsonl", str(tmp_path / "out.jsonl")))
    given = write(tmp_path / "in.jsonl", REQUESTS)
    assert files_of(f"file://{given}") == [given]


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_dialect_in_a_pipe_is_told_however_long_its_first_line_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    line = {"body": {"query": "q", "documents": [os.urandom(100_000).hex()]}, "custom_id": "c"}
    piped = io.BytesIO(pack(lines([line, line])))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(piped))

    plan = Plan(Task("-", str(tmp_path / "out.jsonl")))

    assert plan.read_as.name == "openai-batch"
    assert len(list(plan.reader.records())) == 2
