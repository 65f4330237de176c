"""Health speaks for the whole: the engine, each Celery main process, and Redis."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from rerankq.contract.messages import LANES
from tests.conftest import REPOSITORY
from tests.service import Service

DOUBLE = "rerankq_worker.doubles:noop"
SILENT_AFTER_SECONDS = 20.0
FROZEN_SECONDS = SILENT_AFTER_SECONDS + 20.0
KILLED_SECONDS = SILENT_AFTER_SECONDS + 40.0


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(engine=DOUBLE, silent_after_seconds=SILENT_AFTER_SECONDS) as running:
        running.wait_until(lambda: asked(running).returncode == 0)
        yield running


def asked(service: Service, *options: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.launch", "health", *options]
    return subprocess.run(
        command, env=service.environment | variables, cwd=REPOSITORY, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


def test_a_frozen_redis_is_not_ready_and_restarts_nobody(service: Service) -> None:
    workers = [service.celery_worker(lane).pid for lane in LANES]
    lives: list[subprocess.CompletedProcess[str]] = []

    def are_cut_off() -> bool:
        lives.append(asked(service, "--live"))
        return "cut off" in lives[-1].stdout

    service.redis.freeze()
    try:
        service.wait_until(are_cut_off)
        ready = asked(service)
    finally:
        service.redis.thaw()

    assert (ready.returncode, lives[-1].returncode) == (1, 0), (ready.stdout, lives[-1].stdout)
    assert "RERANKQ_BROKER_URL does not answer" in ready.stdout
    service.wait_until(lambda: asked(service).returncode == 0)
    assert [service.celery_worker(lane).pid for lane in LANES] == workers


def test_a_wrong_password_is_one_line_and_no_health(service: Service) -> None:
    url = service.redis.url.replace("redis://", "redis://nobody:wrong@")

    refused = asked(service, RERANKQ_BROKER_URL=url)

    assert refused.returncode != 0
    assert refused.stderr.count("\n") == 1
    assert "password of RERANKQ_BROKER_URL" in refused.stderr
    assert "wrong@" not in refused.stderr


def test_a_database_that_is_not_there_is_one_line_and_no_health(service: Service) -> None:
    refused = asked(service, RERANKQ_BROKER_URL=service.redis.url.removesuffix("/0") + "/999")

    assert refused.returncode == os.EX_CONFIG
    assert refused.stderr == (
        "rerankq-worker: RERANKQ_BROKER_URL: its Redis has no database of that number; most have 0 to 15\n"
    )


def test_a_wrong_password_at_the_start_ends_the_launcher_in_one_line(service: Service) -> None:
    variables = {
        "RERANKQ_BROKER_URL": service.redis.url.replace("redis://", "redis://nobody:wrong@"),
        "RERANKQ_RUNTIME_DIR": str(service.redis.directory / "another"),
    }
    refused = subprocess.run(
        [sys.executable, "-m", "rerankq_worker"], env=service.environment | variables, cwd=REPOSITORY,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip

    assert refused.returncode == os.EX_CONFIG
    assert refused.stderr.count("\n") == 1
    assert "password of RERANKQ_BROKER_URL" in refused.stderr


def test_a_frozen_main_process_is_no_health_and_is_started_anew(service: Service) -> None:
    frozen = service.celery_worker("bulk")

    frozen.suspend()

    service.wait_until(lambda: "stuck" in asked(service, "--live").stdout, FROZEN_SECONDS)
    service.wait_until(lambda: not frozen.is_running(), KILLED_SECONDS)
    service.wait_until(lambda: asked(service).returncode == 0, 60)
    assert service.celery_worker("bulk").pid != frozen.pid


def test_two_launchers_of_one_host_name_are_told_apart(service: Service) -> None:
    second = Service(engine=DOUBLE, redis=service.redis)
    second.client = service.client
    second.start_launcher(wait=False)
    try:
        names = until(service, lambda: {w.name for w in service.client.workers() if w.state == "ready"}, 4)
    finally:
        second.stop_launcher(signal.SIGTERM)
        second._directory.cleanup()

    left = {worker.name for worker in service.client.workers()}
    assert (len(names), len(left), left < names) == (4, 2, True)
    assert service.client.rerank("still there", ["a"]).worker.name in left


def until(service: Service, found: "Callable[[], set[str]]", count: int) -> set[str]:
    service.wait_until(lambda: len(found()) >= count, 60)
    return found()
