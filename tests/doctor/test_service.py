"""`rerankq doctor` of a whole service that is broken for real, and in order again once its cure was typed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from rerankq.contract.findings import Finding, exit_code
from rerankq.doctor import of_jobs, of_workers
from rerankq.doctor.of_host import LauncherHere
from rerankq.settings import ClientSettings
from rerankq_worker.doctor import runtime
from rerankq_worker.model.small import materialise
from rerankq_worker.settings import WorkerSettings
from tests.doctor.following import PROGRAMS, follow, of
from tests.doctor.stand_ins import light_libraries
from tests.guarded_redis import GuardedRedis
from tests.service import Service

NOOP = "rerankq_worker.doubles:noop"


class Unstarted(Service):
    """Whose workers are started by whoever types what starts them."""

    def start_launcher(self, *, wait: bool = True) -> None: ...


@pytest.fixture(scope="module")
def without_workers() -> Iterator[Service]:
    """Of a double, on a Redis as it is deployed."""
    with Unstarted(engine=NOOP, redis=GuardedRedis(appendonly="yes")) as running:
        yield running


@pytest.fixture(scope="module")
def service(without_workers: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Started by the cures for its lack: a worker of the interactive lane, then one of both lanes."""
    service, directory = without_workers, tmp_path_factory.mktemp("first")
    environment = in_a_moment(service, directory)
    found = look(service, code=2)
    assert of(found, "canary.bulk").verdict == "skipped"
    interactive_alone = {**environment, "RERANKQ_BULK_WORKERS": "0"}
    with Typed(of(found, "workers").cure, interactive_alone, NOOP, directory):
        service.wait_until(lambda: _launcher(directory) is not None)
        assert "is starting some here" in look(service, code=1, launcher=_launcher(directory))[0].text
        service.wait_until(lambda: _in_service(service, 1), 60)
        assert (here := _launcher(directory)) is not None
        assert not here.is_starting
        found = look(service, code=1)
        with Typed(of(found, "workers.bulk").cure, environment, NOOP, service.runtime_directory.parent):
            service.wait_until(lambda: _in_service(service), 60)
            yield service


@pytest.fixture
def environment(service: Service, tmp_path: Path) -> dict[str, str]:
    return in_a_moment(service, tmp_path)


def in_a_moment(service: Service, directory: Path) -> dict[str, str]:
    """As the service's, with libraries that are imported in a moment."""
    libraries = light_libraries(directory / "libraries")
    found = {**service.environment, "RERANKQ_REDIS_TIMEOUT_SECONDS": "10"}
    return {**found, "PYTHONPATH": f"{libraries}:{found['PYTHONPATH']}"}


def doctor(environment: dict[str, str], directory: Path, code: int) -> list[Finding]:
    done = subprocess.run(
        [sys.executable, "-m", "rerankq.cli", "doctor", "--json"],
        env=environment,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (code, ""), done.stdout
    told = json.loads(done.stdout)
    assert told["exit_code"] == code
    return [Finding(**each) for each in told["checks"]]


def look(service: Service, code: int, launcher: LauncherHere | None = None) -> list[Finding]:
    """What it says of workers and jobs, which is quicker."""
    around = of_workers.Around(ClientSettings(broker_url=SecretStr(service.redis.url)))
    found = [*of_workers.findings(around, lambda: launcher), *of_jobs.canaries(around, lambda _: 60.0)]
    assert exit_code(found) == code, found
    return found


def test_a_service_in_order_answers_a_job_through_each_lane(
    service: Service, environment: dict[str, str], tmp_path: Path
) -> None:
    found = doctor(environment, tmp_path, code=0)

    assert {each.check for each in found if each.verdict == "ok"} >= {
        "versions", "settings", "redis", "redis.rights", "redis.policy", "redis.log", "redis.memory", "redis.clock",
        "workers", "workers.interactive", "workers.bulk", "workers.models", "workers.version",
        "canary.interactive", "canary.bulk", "libraries", "transport", "engine.cpu0",
    }  # fmt: skip
    assert service.client.lanes() == {"interactive": 0, "bulk": 0}
    assert "word-of" not in str(found)


def test_a_paused_lane_is_told_and_resumed(service: Service, environment: dict[str, str]) -> None:
    follow("rerankq pause bulk", environment)

    found = look(service, code=1)
    assert of(found, "canary.bulk").verdict == "skipped"
    follow(of(found, "workers.paused").cure, environment)

    look(service, code=0)


def test_a_worker_that_drains_is_told_and_employed_again(
    service: Service, environment: dict[str, str]
) -> None:
    bulk = next(worker.name for worker in service.client.workers() if "bulk" in worker.lanes)
    follow(f"rerankq drain {bulk}", environment)
    service.wait_until(lambda: not _in_service(service))

    found = look(service, code=1)
    follow(of(found, "workers").cure, environment)
    service.wait_until(lambda: _in_service(service))

    look(service, code=0)


def test_jobs_for_a_model_that_nobody_serves_are_told_and_its_wrong_scores_once_it_is_served(
    service: Service, environment: dict[str, str], tmp_path: Path
) -> None:
    shutil.copytree(materialise(), tmp_path / "another")
    job = service.client.submit("q", ["a"], lane="bulk", model="another")

    finding = of(look(service, code=1), "workers.models")
    environment["RERANKQ_SERVE_UNNAMED"] = "false"
    with Typed(finding.cure, environment, "tests.doctor.backwards:engine?model=another", tmp_path):
        assert job.result(60).complete
        service.wait_until(lambda: _in_service(service, 5), 60)
        found = look(service, code=2)

    assert of(found, "workers.models").verdict == "ok"
    for lane in ("canary.interactive", "canary.bulk"):
        unnamed, another = (each for each in found if each.check == lane)
        assert (unnamed.verdict, another.verdict) == ("ok", "broken")
        assert another.text.startswith("another: expected document 1 of the canary to come first")


class Typed:
    """`with Typed(...):`; a worker started by what was typed, on the service's Redis, in a directory of its own."""

    def __init__(self, typed: str, environment: dict[str, str], factory: str, directory: Path) -> None:
        self._typed, self._directory = typed, directory
        self._environment = {
            **environment,
            "RERANKQ_ENGINE_FACTORY": factory,
            "RERANKQ_RUNTIME_DIR": str(directory / "run"),
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        }

    def __enter__(self) -> None:
        self._directory.mkdir(exist_ok=True)
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", f"exec env {self._typed}"],
                env=self._environment,
                cwd=self._directory,
                stdout=log,
                stderr=log,
            )

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)


def _launcher(directory: Path) -> LauncherHere | None:
    told = runtime.launcher(WorkerSettings(runtime_dir=str(directory / "run")))
    return None if told is None else LauncherHere(**told)


def _in_service(service: Service, count: int = 3) -> bool:
    workers = service.client.workers()
    return len(workers) == count and all(worker.state in ("ready", "busy") for worker in workers)
