"""Bulk through the whole service: kills on the answering side go unseen."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bulk.test_resume import COMMAND
from tests.bulk.test_run import read, rows, write
from tests.service import Service

ROWS = 400


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    engine = "rerankq_worker.doubles:slow?batch_ms=5&pair_ms=2"
    with Service(engine=engine, appendonly=True, lease_seconds=2.0) as running:
        yield running


def wait_for_rows(out: Path, count: int, process: "subprocess.Popen[bytes]") -> None:
    while not out.exists() or out.read_bytes().count(b"\n") < count:
        assert process.poll() is None, "the run ended too early"
        time.sleep(0.05)


def test_worker_engine_and_redis_killed_in_one_run_leave_every_row_answered_once(
    service: Service, tmp_path: Path
) -> None:
    given, out = write(tmp_path / "in.jsonl", rows(ROWS)), tmp_path / "out.jsonl"
    words = [sys.executable, "-c", COMMAND, service.redis.url, given, str(out), "ordered"]

    process = subprocess.Popen(words, env=service.environment)
    wait_for_rows(out, 1, process)
    service.kill(service.celery_worker("bulk"))
    wait_for_rows(out, ROWS // 4, process)
    service.kill(service.engine())
    wait_for_rows(out, ROWS // 2, process)
    service.redis.kill()
    service.redis.start()

    assert process.wait(timeout=120) == 0
    lines = read(out)
    assert [line["id"] for line in lines] == [f"r{number}" for number in range(ROWS)]
    for line in lines:
        logits = [result["logit"] for result in line["results"]]
        assert logits == sorted(logits, reverse=True)
    service.wait_until(service.is_ready, 60)
