"""Celery workers under a process manager of one's own, beside `rerankq-worker --engine-only`."""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery

from rerankq import RerankClient
from rerankq.contract import keys
from rerankq_worker.link import health
from tests.conftest import REPOSITORY
from tests.redis_server import RedisServer

DOCUMENTED = ("celery", "-A", "rerankq_worker.app", "worker", "--pool", "prefork", "--concurrency", "1")
LONG = [f"document {number}" for number in range(320)]  # ten batches: three seconds on the double


def environment_of(redis_server: RedisServer, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(REPOSITORY / part) for part in ("producer", "worker")),
        "RERANKQ_BROKER_URL": redis_server.url,
        "RERANKQ_RUNTIME_DIR": str(tmp_path),
        "RERANKQ_DEVICES": "cpu",
        "RERANKQ_MODEL": "small",
        "RERANKQ_ENGINE_FACTORY": "rerankq_worker.doubles:slow?batch_ms=300",
    }


@pytest.fixture
def client(redis_server: RedisServer, tmp_path: Path) -> Iterator[RerankClient]:
    environment = environment_of(redis_server, tmp_path)
    commands = [("rerankq_worker", "--engine-only"), DOCUMENTED]
    started = [
        subprocess.Popen([sys.executable, "-m", *command], cwd=tmp_path, env=environment)
        for command in commands
    ]
    with RerankClient(redis_server.url) as asking:
        yield asking
    for process in reversed(started):
        process.terminate()
    for process in started:
        process.wait(60)


def test_the_documented_worker_takes_bulk_jobs_and_interactive_ones_first(
    client: RerankClient, redis_server: RedisServer
) -> None:
    running = client.submit("running", LONG, lane="bulk")
    wait_until(lambda: running.status().state == "running")
    later = client.submit("later", LONG, lane="bulk", model="double")
    urgent = client.submit("urgent", ["a"], model="double@0")

    assert later.result(60).complete
    with redis_server.client() as redis:
        started = [
            float(redis.hget(keys.job(job.job_id), "started") or 0) for job in (running, urgent, later)
        ]
    assert 0 < started[0] < started[1] < started[2]


def test_a_worker_that_comes_in_the_place_of_a_killed_one_is_asked_in_its_place(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    killed = subprocess.Popen(["true"])
    killed.wait()
    for name in ("mine", "another"):
        beat = health.Beat(pid=killed.pid, node=f"{name}@host~000000")
        health.write(health.beat_file(tmp_path, beat.node), beat)
    command = [sys.executable, "-m", *DOCUMENTED, "-n", "mine@host"]
    worker = subprocess.Popen(command, cwd=tmp_path, env=environment_of(redis_server, tmp_path))

    give_up_at = time.monotonic() + 60
    while not (there := [beat.node for beat in health.beats(tmp_path) if beat.pid == worker.pid]):
        assert time.monotonic() < give_up_at
        time.sleep(0.05)
    found = [beat.node for beat in health.beats(tmp_path)]
    worker.terminate()
    worker.wait(60)

    assert found == ["another@host~000000", *there]


def test_a_wrong_setting_ends_a_plain_celery_worker_in_one_line(tmp_path: Path) -> None:
    variables = {"RERANKQ_BROKER_URL": "redis://:secret@localhost/0?timeout=3"}
    refused = subprocess.run(
        [sys.executable, "-m", *DOCUMENTED], cwd=tmp_path, env={**os.environ, **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert refused.returncode == os.EX_CONFIG
    assert refused.stderr.startswith("rerankq-worker: RERANKQ_BROKER_URL: expected no timeout in the URL")
    assert refused.stderr.count("\n") == 1


def test_a_logfile_that_cannot_be_written_is_refused_in_one_line(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    environment = environment_of(redis_server, tmp_path) | {"RERANKQ_LOG": "json", "PYTHONWARNINGS": "ignore"}
    refused = subprocess.run(
        [sys.executable, "-m", *DOCUMENTED, "--logfile", "no/such/directory.log"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert refused.returncode == os.EX_CONFIG
    told = json.loads(refused.stderr)
    assert told["message"] == "--logfile: cannot write to no/such/directory.log: No such file or directory"


def test_a_logfile_on_a_full_disk_stops_nobody(redis_server: RedisServer, tmp_path: Path) -> None:
    """And no other line comes of it; moved away, it is made anew."""
    environment = environment_of(redis_server, tmp_path) | {"RERANKQ_LOG": "json", "PYTHONWARNINGS": "ignore"}
    log = tmp_path / "log"
    log.symlink_to("/dev/full")
    worker = subprocess.Popen(
        [sys.executable, "-m", *DOCUMENTED, "--logfile", str(log), "--hostname", "full@h"],
        cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with Celery(broker=redis_server.url, set_as_current=False) as asking:  # it beats before it writes a line
        wait_until(lambda: any(name.startswith("full@h") for (name,) in asking.control.ping(timeout=1)))
    log.unlink()
    worker.terminate()
    _, told = worker.communicate(timeout=60)

    assert (worker.returncode, told) == (0, "")
    missing, *rest = [json.loads(line) for line in log.read_text().splitlines()]
    assert "lines of this log are missing" in missing["message"]
    assert "Warm shutdown" in rest[0]["message"]


def wait_until(is_true: Callable[[], object]) -> None:
    give_up_at = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def test_nobody_is_stopped_by_the_log_of_a_plain_celery_worker_that_nobody_reads(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    environment = environment_of(redis_server, tmp_path) | {
        "RERANKQ_LOG": "json",
        "RERANKQ_LOG_LEVEL": "DEBUG",
    }
    engine = subprocess.Popen(
        [sys.executable, "-m", "rerankq_worker", "--engine-only"], cwd=tmp_path, env=environment
    )
    worker = subprocess.Popen(
        [sys.executable, "-m", *DOCUMENTED], cwd=tmp_path, env=environment, stdout=writer, stderr=writer
    )
    os.close(writer)

    with RerankClient(redis_server.url) as asking:
        for number in range(30):  # whose lines are twice what the pipe takes
            assert asking.submit(f"query {number}", ["a"]).result(60).complete
    worker.terminate()
    with os.fdopen(reader) as log:
        told = [json.loads(line) for line in log]
    engine.terminate()

    assert worker.wait(60) == 0
    engine.wait(60)
    assert len([line for line in told if line.get("outcome") == "done"]) == 30
