"""Whatever is killed in mid run, the same command again ends in one line per row, equal to an unbroken run's."""

import gzip
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rerankq import BrokerUnavailable, InvalidRequest, RerankClient
from rerankq.bulk import BulkRun, Task
from rerankq.contract import wire
from rerankq.settings import ClientSettings
from tests.bulk.answering import AnsweringWorker
from tests.bulk.test_run import read, rows, run, write
from tests.redis_server import RedisServer

ROWS = 240
COMMAND = """
import sys
from rerankq import RerankClient
from rerankq.bulk import BulkRun, Task
with RerankClient(sys.argv[1]) as client:
    BulkRun(Task(sys.argv[2], sys.argv[3], is_ordered=sys.argv[4] == "ordered", pack_pairs=12), client).run()
"""


@pytest.fixture
def given(tmp_path: Path) -> str:
    return write(tmp_path / "in.jsonl", rows(ROWS))


@pytest.fixture
def unbroken(given: str, tmp_path: Path) -> list[Any]:
    """What an unbroken run writes."""
    with RedisServer() as server, AnsweringWorker(server), RerankClient(server.url) as client:
        run(client, given, tmp_path / "unbroken.jsonl")
    return read(tmp_path / "unbroken.jsonl")


def start(url: str, given: str, out: Path, order: str = "ordered") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", COMMAND, url, given, str(out), order])


def wait_for_some_output(out: Path) -> None:
    give_up_at = time.monotonic() + 20
    while time.monotonic() < give_up_at:
        if out.exists() and out.stat().st_size > 0:
            return
        time.sleep(0.02)
    raise AssertionError("the run wrote nothing")


@pytest.mark.parametrize("order", ["ordered", "unordered"])
def test_a_client_killed_twice_loses_nothing_and_nothing_is_scored_twice(
    redis_server: RedisServer,
    client: RerankClient,
    given: str,
    unbroken: list[Any],
    tmp_path: Path,
    order: str,
) -> None:
    out = tmp_path / "out.jsonl"
    with AnsweringWorker(redis_server, seconds_per_pack=0.08) as worker:
        for _ in range(2):
            process = start(redis_server.url, given, out, order)
            size = out.stat().st_size if out.exists() else 0
            while not out.exists() or out.stat().st_size <= size:
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(signal.SIGKILL)
            process.wait()
        with out.open("ab") as torn:
            torn.write(b'{"id": "half a li')
        worker.seconds_per_pack = 0
        assert start(redis_server.url, given, out, order).wait(timeout=60) == 0

    assert sorted(read(out), key=lambda line: line["tag"]) == unbroken
    assert order == "unordered" or out.read_bytes() == (tmp_path / "unbroken.jsonl").read_bytes()
    assert set(worker.scored.values()) == {1}


@pytest.mark.parametrize("keeps_its_data", [True, False], ids=["with AOF", "with total loss"])
def test_a_redis_killed_in_mid_run_is_ridden_out(
    given: str, unbroken: list[Any], tmp_path: Path, keeps_its_data: bool
) -> None:
    out = tmp_path / "out.jsonl"
    with (
        RedisServer(appendonly=keeps_its_data) as server,
        AnsweringWorker(server, seconds_per_pack=0.02) as worker,
    ):
        process = start(server.url, given, out)
        wait_for_some_output(out)
        server.kill()
        time.sleep(0.3)
        server.start()
        worker.seconds_per_pack = 0
        assert process.wait(timeout=60) == 0

    assert read(out) == unbroken


def test_a_run_that_lost_patience_is_finished_by_the_same_command(
    given: str, unbroken: list[Any], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    with RedisServer() as server, AnsweringWorker(server, seconds_per_pack=0.02) as worker:
        settings = ClientSettings(broker_url=server.url, bulk_patience_seconds=0.3)
        with RerankClient(settings=settings) as client:
            bulk = BulkRun(Task(given, str(out), pack_pairs=12), client, progress=Stopping(server))
            with pytest.raises(BrokerUnavailable):
                bulk.run()
        server.start()
        assert 0 < len(read(out)) < ROWS
        worker.seconds_per_pack = 0
        with RerankClient(server.url) as client:
            time.sleep(0.2)
            summary = run(client, given, out)

    assert summary.resumed_rows > 0
    assert read(out) == unbroken


class Stopping:
    """Shows no progress, but kills Redis when there has been some."""

    def __init__(self, server: RedisServer) -> None:
        self._server: RedisServer | None = server

    def show(self, snapshot: Any) -> None:
        if snapshot.rows > 50 and self._server is not None:
            self._server.kill()
            self._server = None

    def close(self) -> None: ...


def test_a_complete_run_asks_nobody_when_it_is_run_again(
    client: RerankClient, worker: AnsweringWorker, given: str, tmp_path: Path
) -> None:
    run(client, given, tmp_path / "out.jsonl")
    before = (tmp_path / "out.jsonl").read_bytes()

    with RerankClient("redis://127.0.0.1:1/0") as nobody:
        summary = run(nobody, given, tmp_path / "out.jsonl")

    assert summary.resumed_rows == ROWS
    assert (tmp_path / "out.jsonl").read_bytes() == before


def half_done(client: RerankClient, given: str, out: Path, after_rows: int = 50, **options: Any) -> None:
    """A run that was interrupted."""

    class Interrupting:
        def show(self, snapshot: Any) -> None:
            if snapshot.rows > after_rows:
                raise KeyboardInterrupt

        def close(self) -> None: ...

    interrupted = BulkRun(Task(given, str(out), pack_pairs=12, **options), client, progress=Interrupting())
    with pytest.raises(KeyboardInterrupt):
        interrupted.run()


def test_an_interrupted_run_keeps_what_was_answered(
    client: RerankClient, worker: AnsweringWorker, given: str, unbroken: list[Any], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"

    half_done(client, given, out)
    kept = len(read(out))
    run(client, given, out)

    assert 50 < kept < ROWS
    assert read(out) == unbroken
    assert set(worker.scored.values()) == {1}


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "setting": ({"options": {"top_n": 2}}, "begun with top_n = None, now it is 2"),
    "windows": ({"options": {"long_documents": "windows"}}, "long_documents = None, now it is windows"),
    "format": ({"output_format": "trec"}, "output format = jsonl, now it is trec"),
    "packs": ({"pack_pairs": 99}, "begun with --pack-pairs 12"),
}


@pytest.mark.parametrize(("options", "message"), CHANGES.values(), ids=CHANGES)
def test_a_changed_setting_refuses_to_resume(
    client: RerankClient,
    worker: AnsweringWorker,
    given: str,
    tmp_path: Path,
    options: dict[str, Any],
    message: str,
) -> None:
    out = tmp_path / "out.jsonl"
    half_done(client, given, out)
    before = out.read_bytes()

    with pytest.raises(InvalidRequest, match=message):
        run(client, given, out, **options)
    assert out.read_bytes() == before
    assert run(client, given, out, **options, restart=True).rows == ROWS


def test_a_changed_input_refuses_to_resume(
    client: RerankClient, worker: AnsweringWorker, given: str, tmp_path: Path
) -> None:
    half_done(client, given, tmp_path / "out.jsonl")
    state = Path(given).stat()
    edited = Path(given).read_bytes()
    Path(given).write_bytes(edited[:-30] + edited[-30:].swapcase())
    os.utime(given, ns=(state.st_atime_ns, state.st_mtime_ns + 1))

    with pytest.raises(InvalidRequest, match=r"cannot be resumed: the input .* --restart begins anew"):
        run(client, given, tmp_path / "out.jsonl")


def test_another_model_refuses_to_resume(
    client: RerankClient, redis_server: RedisServer, given: str, tmp_path: Path
) -> None:
    with AnsweringWorker(redis_server):
        half_done(client, given, tmp_path / "out.jsonl")

    with (
        AnsweringWorker(redis_server, revision="2"),
        RerankClient(redis_server.url) as later,
        pytest.raises(InvalidRequest, match="begun with the model by-length@1, now by-length@2 is served"),
    ):
        run(later, given, tmp_path / "out.jsonl")


def test_two_runs_do_not_write_one_output(
    client: RerankClient, redis_server: RedisServer, given: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    with AnsweringWorker(redis_server, seconds_per_pack=0.1):
        process = start(redis_server.url, given, out)
        wait_for_some_output(out)

        with pytest.raises(InvalidRequest, match="being written by another"):
            run(client, given, out)
        process.kill()
        process.wait()


def test_compressed_output_is_resumed_too(
    client: RerankClient, worker: AnsweringWorker, given: str, unbroken: list[Any], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl.gz"
    half_done(client, given, out)
    with out.open("ab") as torn:
        torn.write(b"\x1f\x8b torn")

    run(client, given, out)

    assert [wire.decode(line) for line in gzip.decompress(out.read_bytes()).splitlines()] == unbroken


def test_a_parquet_output_is_there_only_once_it_is_whole(
    client: RerankClient, worker: AnsweringWorker, given: str, unbroken: list[Any], tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out.parquet"
    half_done(client, given, out)
    assert not out.exists()

    run(client, given, out)
    assert parquet.read_table(out).column("id").to_pylist() == [line["id"] for line in unbroken]


def test_a_parquet_output_is_made_of_its_lines_by_the_next_run_if_the_first_was_killed_before(
    client: RerankClient, worker: AnsweringWorker, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "out.parquet"
    with monkeypatch.context() as killed:
        killed.setattr(BulkRun, "_finish", lambda *_: None)
        run(client, given, out)
    assert not out.exists()

    run(client, given, out)

    assert parquet.read_table(out).num_rows == ROWS
