"""A rolling upgrade from 0.1.0 to this checkout and back: workers and clients of both on one Redis, nothing lost."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rerankq import InvalidRequest, NoWorkers
from tests.conftest import REPOSITORY
from tests.redis_addresses import BorrowedRedis
from tests.redis_server import RedisServer
from tests.service import Service

RELEASE = "7a38101"
"""0.1.0, as CHANGELOG.md names it."""
ENGINE = "rerankq_worker.doubles:slow?pair_ms=10"
ROWS, JOBS = 200, 40

# A program of either release: submits as many jobs as each line says; at the end of its input it has all answered.
CLIENT = """
import json, sys
from contextlib import suppress
from rerankq import RerankClient

with suppress(ImportError):  # 0.1.0 has no traces, and its workers leave them be
    from rerankq.contract.traces import handed
    handed.set("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
with RerankClient() as client:
    jobs = []
    for line in sys.stdin:
        for number in range(int(line)):
            documents = ["a bear", "a panda", "a bird " * (20_000 if number % 10 == 0 else 1)]
            lane = ("interactive", "bulk")[number % 2]
            jobs.append(client.submit("panda", documents, lane=lane))
        print(len(jobs), flush=True)
    print(json.dumps({job.job_id: job.result(120).scored for job in jobs}), flush=True)
"""


@pytest.fixture(scope="module")
def release_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of 0.1.0."""
    git = ["git", "-C", REPOSITORY, "archive", RELEASE, "producer", "worker"]
    try:
        archived = subprocess.run(git, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no git to take 0.1.0 out of the history with")
    if archived.returncode:
        pytest.skip(f"this checkout has no history that reaches 0.1.0 ({RELEASE})")
    home = tmp_path_factory.mktemp("release-before")
    with tarfile.open(fileobj=io.BytesIO(archived.stdout)) as tree:
        tree.extractall(home, filter="data")
    return home


class Fleet:
    """Workers and clients of either release on one Redis."""

    def __init__(self, redis: RedisServer, trees: dict[str, Path], stack: ExitStack) -> None:
        self._redis, self._trees, self._stack = redis, trees, stack

    def worker(self, release: str) -> Service:
        """One more worker, ready."""
        return self._stack.enter_context(_Worker(self._redis, self._trees[release]))

    def client(self, release: str) -> subprocess.Popen[str]:
        """A program that submits what it is told to."""
        return self._started(release, "-c", CLIENT)

    def bulk(self, release: str, rows: Path, answers: Path) -> subprocess.Popen[str]:
        """`rerankq bulk` over a file."""
        return self._started(release, "-m", "rerankq.cli", "bulk", str(rows), str(answers))

    def _started(self, release: str, *arguments: str) -> subprocess.Popen[str]:
        told = {"PATH": "/usr/bin:/bin", "RERANKQ_BROKER_URL": self._redis.url}
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=told | {"PYTHONPATH": _path_of(self._trees[release])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process


class _Worker(Service):
    """A launcher of some release."""

    def __init__(self, redis: RedisServer, tree: Path) -> None:
        super().__init__(engine=ENGINE, redis=BorrowedRedis(redis.url))
        self._tree = tree

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PYTHONPATH": _path_of(self._tree)}


def _path_of(tree: Path) -> str:
    return os.pathsep.join(str(tree / side) for side in ("producer", "worker"))


@pytest.fixture
def fleet(release_before: Path) -> Iterator[Fleet]:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(appendonly=True))
        yield Fleet(redis, {"0.1.0": release_before, "this": REPOSITORY}, stack)


def tell(client: subprocess.Popen[str], count: int) -> None:
    """Have a client submit jobs, and wait until it has."""
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(f"{count}\n")
    client.stdin.flush()
    assert client.stdout.readline()


def answers_of(client: subprocess.Popen[str]) -> dict[str, int]:
    """Scored documents by job, when all are answered."""
    told, _ = client.communicate(timeout=180)
    assert client.returncode == 0
    return json.loads(told)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
@pytest.mark.parametrize(("old", "new"), [("0.1.0", "this"), ("this", "0.1.0")], ids=["forth", "back"])
def test_a_worker_of_another_release_takes_over_and_nothing_is_lost(
    old: str, new: str, how: signal.Signals, fleet: Fleet, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    row: dict[str, Any] = {"query": "panda", "documents": ["a bear", "a panda"]}
    rows.write_text("".join(json.dumps({"id": f"r{number}", **row}) + "\n" for number in range(ROWS)))
    leaving = fleet.worker(old)
    clients = [fleet.client(release) for release in (old, new)]
    written = {release: tmp_path / f"{release}.jsonl" for release in (old, new)}
    runs = [fleet.bulk(release, rows, answers) for release, answers in written.items()]

    for client in clients:
        tell(client, JOBS)
    coming = fleet.worker(new)
    for client in clients:
        tell(client, JOBS)
    assert sum(leaving.client.lanes().values()) > 0, "nothing was under way"
    leaving.stop_launcher(how)
    for client in clients:
        tell(client, JOBS)
    answered = [answers_of(client) for client in clients]

    assert [(len(answers), set(answers.values())) for answers in answered] == [(3 * JOBS, {3})] * 2
    assert [run.wait(180) for run in runs] == [0, 0]
    wanted = {f"r{number}" for number in range(ROWS)}
    for answers in written.values():
        assert {json.loads(line)["id"] for line in answers.read_text().splitlines()} == wanted
    assert coming.client.lanes() == {"interactive": 0, "bulk": 0}
    assert {coming.client.job(job).status().state for answers in answered for job in answers} == {"done"}


def test_what_an_older_worker_does_not_know_is_refused_by_its_name_and_not_half_done(fleet: Fleet) -> None:
    """Workers first, says the manual."""
    older = fleet.worker("0.1.0")

    with pytest.raises(InvalidRequest, match="contract version 1, got 2; upgrade the older side"):
        older.client.rerank("panda", ["a panda"], score_threshold=0.1, timeout=60)
    with pytest.raises(NoWorkers):
        older.client.rerank("panda", ["a panda"], model="org/other", timeout=60)

    older.stop_launcher()
    newer = fleet.worker("this")
    assert newer.client.rerank("panda", ["a panda"], score_threshold=0.0, timeout=60).scored == 1
