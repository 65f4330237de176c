"""The launcher: what it starts, restarts, refuses and stops, and in which order."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from rerankq_worker.host.devices import CPU, Device
from rerankq_worker.host.launcher import launcher_for
from rerankq_worker.link import health
from rerankq_worker.link.client import EngineClient
from rerankq_worker.settings import WorkerSettings
from tests.process.engine_under_test import PATIENCE_SECONDS, eventually, rows_of
from tests.process.stub_launcher import stub

REPOSITORY = Path(__file__).parents[2]

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "RERANKQ_RUNTIME_DIR": str(tmp_path),
        "RERANKQ_ENGINE_FACTORY": "rerankq_worker.doubles:noop",
        "RERANKQ_DEVICES": "cpu",
    }


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Runs a program in the repository, and kills it and its children at the end."""
    started: list[subprocess.Popen[str]] = []

    def run(*command: str, **variables: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        family = children_of(process) if process.poll() is None else []
        process.kill()
        for child in family:
            if child.is_running():
                child.kill()
        process.communicate()


def children_of(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def run_command(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "rerankq_worker", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def one_score(runtime_dir: Path) -> list[float]:
    client = EngineClient(runtime_dir / "cpu0.sock", PATIENCE_SECONDS)
    return [
        float(logit)
        for piece in client.scores(rows_of(3), job_id="job", lane="bulk")
        for logit in piece.logits
    ]


def test_a_killed_engine_is_started_anew(start: Start, tmp_path: Path) -> None:
    launcher = start("-m", "rerankq_worker", "--engine-only")
    one_score(tmp_path)
    (engine,) = children_of(launcher)

    engine.kill()
    engine.wait(PATIENCE_SECONDS)

    assert one_score(tmp_path) == [-3]
    status = health.read_status(tmp_path / "cpu0.json")
    assert status is not None
    assert (status.starts, status.pid == engine.pid) == (2, False)


def test_sigterm_stops_all_and_exits_with_0(start: Start, tmp_path: Path) -> None:
    launcher = start("-m", "rerankq_worker", "--engine-only")
    one_score(tmp_path)
    (engine,) = children_of(launcher)

    launcher.terminate()

    assert launcher.wait(PATIENCE_SECONDS) == 0
    assert not engine.is_running()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cpu0.lock", "launcher.lock"]


def test_nothing_outlives_a_launcher_that_was_killed(start: Start, tmp_path: Path) -> None:
    launcher = start("-m", "rerankq_worker", "--engine-only")
    one_score(tmp_path)
    stubs = start("-m", "tests.process.stub_launcher", "SIGTERM")
    eventually(lambda: len(children_of(stubs)) == 2)
    assert stubs.stdout is not None
    assert {stubs.stdout.readline() for _ in range(2)} == {"engine up\n", "worker up\n"}
    orphans = [*children_of(launcher), *children_of(stubs)]

    launcher.kill()
    stubs.kill()

    eventually(lambda: not any(orphan.is_running() for orphan in orphans))
    assert len(orphans) == 3


def test_celery_workers_are_drained_before_the_engines_are_asked_to_go(start: Start) -> None:
    launcher = start("-m", "tests.process.stub_launcher", "SIGTERM")
    assert launcher.stdout is not None
    ups = {launcher.stdout.readline() for _ in range(2)}

    launcher.terminate()
    told, _ = launcher.communicate(timeout=PATIENCE_SECONDS)

    assert ups == {"engine up\n", "worker up\n"}
    assert told.splitlines() == ["worker SIGTERM", "worker ended", "engine SIGTERM", "engine ended"]


def test_a_job_longer_than_the_grace_is_handed_back_by_sigquit(start: Start) -> None:
    launcher = start("-m", "tests.process.stub_launcher", "SIGQUIT")
    assert launcher.stdout is not None
    _ = [launcher.stdout.readline() for _ in range(2)]

    launcher.terminate()
    told, _ = launcher.communicate(timeout=PATIENCE_SECONDS)

    assert told.splitlines()[:3] == ["worker SIGTERM", "worker SIGQUIT", "worker ended"]


def test_further_signals_skip_the_waits(start: Start) -> None:
    launcher = start("-m", "tests.process.stub_launcher")  # its worker ends at no signal that can be caught
    assert launcher.stdout is not None
    _ = [launcher.stdout.readline() for _ in range(2)]

    launcher.terminate()
    assert launcher.stdout.readline() == "worker SIGTERM\n"
    launcher.terminate()
    assert launcher.stdout.readline() == "worker SIGQUIT\n"
    launcher.terminate()

    assert launcher.wait(PATIENCE_SECONDS) == 0


def test_a_process_that_ends_at_once_is_started_ever_more_rarely() -> None:
    child = stub("short-lived", code="import sys; sys.exit(1)")

    give_up_at = time.monotonic() + 4
    while time.monotonic() < give_up_at:
        child.tend()
        time.sleep(0.02)

    assert 2 <= child.starts <= 3  # at 0, 1 and 3 s
    eventually(lambda: child.notice_end() is not None or not child.is_running)


def test_an_engine_that_is_frozen_from_outside_is_killed_and_started_anew(
    start: Start, tmp_path: Path
) -> None:
    launcher = start("-m", "rerankq_worker", "--engine-only", RERANKQ_STUCK_AFTER_SECONDS="1")
    one_score(tmp_path)
    (engine,) = children_of(launcher)

    engine.suspend()

    assert one_score(tmp_path) == [-3]  # by its successor, after 9 s
    assert not engine.is_running()


def test_a_configuration_error_of_a_child_stops_everything_with_its_message(start: Start) -> None:
    launcher = start("-m", "rerankq_worker", "--engine-only", RERANKQ_ENGINE_FACTORY="nowhere:nothing")

    told, _ = launcher.communicate(timeout=PATIENCE_SECONDS)

    assert launcher.returncode == os.EX_CONFIG
    assert "RERANKQ_ENGINE_FACTORY: nowhere:nothing cannot be imported" in told
    assert "engine cpu0 cannot run as configured" in told
    assert "Traceback" not in told


TWO_ENGINES = """
from tests.process.stub_launcher import Launcher, stub, sys
from pathlib import Path
engines = [stub("refused", code="raise SystemExit(78)"), stub("other", "SIGTERM")]
for engine in engines:
    engine.status_file = Path(f"{engine.name} has no status")
launcher = Launcher(engines, [], drain_seconds=1, stuck_after_seconds=60, load_timeout_seconds=60)
sys.exit(launcher.run())
"""


def test_of_two_engines_the_one_that_can_run_goes_on_alone(start: Start) -> None:
    launcher = start("-c", TWO_ENGINES)
    assert launcher.stdout is not None
    awaited = {"other up", "refused cannot run as configured (it says why above); the others go on"}
    for line in launcher.stdout:
        awaited.discard(line.rstrip())
        if not awaited:
            break

    launcher.terminate()
    told, _ = launcher.communicate(timeout=PATIENCE_SECONDS)

    assert (awaited, launcher.returncode) == (set(), 0)
    assert told.endswith("other SIGTERM\nother ended\n")


def test_what_has_served_is_started_anew_until_it_is_configured_rightly_again(
    start: Start, tmp_path: Path
) -> None:
    """A restart in the middle of a change, of a password say: no reason to stop for good."""
    setting = tmp_path / "secrets" / "rerankq_engine_factory"
    setting.parent.mkdir()
    setting.write_text("rerankq_worker.doubles:noop")
    variables = {"RERANKQ_ENGINE_FACTORY": "", "RERANKQ_SECRETS_DIR": str(setting.parent)}
    launcher = start("-m", "rerankq_worker", "--engine-only", **variables)
    one_score(tmp_path)

    setting.write_text("nowhere:nothing")
    children_of(launcher)[0].kill()
    assert launcher.stdout is not None
    assert any("engine cpu0: ended with exit code 78" in line for line in launcher.stdout)
    setting.write_text("rerankq_worker.doubles:noop")

    assert one_score(tmp_path) == [-3]


def test_a_worker_that_cannot_run_as_configured_now_is_tried_again() -> None:
    """The launcher has read the same settings and asked the same Redis: something has changed meanwhile."""
    worker = stub("worker", code=f"raise SystemExit({os.EX_CONFIG})")
    ends: list[int | None] = [worker.tend()]

    eventually(lambda: ends.append(worker.tend()) or ends[-1] == os.EX_CONFIG)

    assert not worker.has_given_up


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        pytest.param(
            {"RERANKQ_DEVICES": "0", "CUDA_VISIBLE_DEVICES": ""},
            "no GPU is visible and RERANKQ_DEVICES=0 asks for one; install a driver, or set RERANKQ_DEVICES=cpu",
            id="gpu absent",
        ),
        pytest.param({"RERANKQ_DEVICE": "cpu"}, "did you mean RERANKQ_DEVICES?", id="misspelt variable"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(
    environment: dict[str, str], variables: dict[str, str], message: str
) -> None:
    refused = run_command({**environment, **variables})

    assert refused.returncode == os.EX_CONFIG
    assert message in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_second_launcher_in_the_same_directory_is_refused(
    start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    first = start("-m", "rerankq_worker", "--engine-only")
    one_score(tmp_path)

    second = run_command(environment, "--engine-only")

    assert second.returncode == os.EX_CONFIG
    assert f"another rerankq-worker (pid {first.pid})" in second.stderr


def test_a_port_that_is_taken_is_refused_in_one_line(environment: dict[str, str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])

        refused = run_command({**environment, "RERANKQ_METRICS_PORT": port})

    assert refused.returncode == os.EX_CONFIG
    assert f"metrics cannot be served at 127.0.0.1:{port}" in refused.stderr


def test_every_celery_worker_is_named_for_its_device_and_lane(tmp_path: Path) -> None:
    settings = WorkerSettings(runtime_dir=str(tmp_path), interactive_workers=1, bulk_workers=2)

    commands = [" ".join(worker.command(1)) for worker in launcher_for(settings, [CPU]).celery_workers]

    names_and_queues = [
        re.search(r"-n (\S+)@\S+~[0-9a-f]{6} -Q (\S+)", command).groups() for command in commands
    ]  # type: ignore[union-attr]
    assert names_and_queues == [
        ("cpu0-interactive", "rerankq.interactive"),
        ("cpu0-bulk", "rerankq.interactive,rerankq.bulk"),
        ("cpu0-bulk2", "rerankq.interactive,rerankq.bulk"),
    ]
    assert all("--pool prefork --concurrency 1" in command for command in commands)


def test_a_gpu_gets_a_second_bulk_worker_so_that_it_never_waits_for_a_tokenizer(tmp_path: Path) -> None:
    settings = WorkerSettings(runtime_dir=str(tmp_path))

    workers = launcher_for(settings, [CPU, Device("gpu0", "GPU-1")]).celery_workers

    names = ["cpu0-interactive", "cpu0-bulk", "gpu0-interactive", "gpu0-bulk", "gpu0-bulk2"]
    assert [worker.name for worker in workers] == [f"worker {name}" for name in names]


def test_health_is_0_while_ready_and_1_before_and_after(
    start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    before = run_command(environment, "health", "--live")
    launcher = start("-m", "rerankq_worker", "--engine-only")
    one_score(tmp_path)
    meanwhile = run_command(environment, "health", "--live")
    launcher.send_signal(signal.SIGSTOP)  # so that it starts no other
    (engine,) = children_of(launcher)
    engine.kill()
    eventually(lambda: engine.status() == psutil.STATUS_ZOMBIE)
    launcher.kill()
    launcher.wait()
    eventually(lambda: not engine.is_running())
    after = run_command(environment, "health", "--live")

    assert (before.returncode, before.stdout) == (1, f"broken: no engine has reported in {tmp_path}\n")
    assert (meanwhile.returncode, meanwhile.stdout) == (0, "cpu0 ready, packed\n")
    assert (after.returncode, after.stdout) == (1, "cpu0 broken\n")


@pytest.mark.parametrize("command", [["health", "--live"], ["settings"]], ids=lambda words: words[0])
def test_a_light_command_imports_nothing_heavy(environment: dict[str, str], command: list[str]) -> None:
    code = (
        "import sys; from rerankq_worker.__main__ import main; main(sys.argv[1:]);"
        "print([name for name in ('torch', 'transformers', 'celery', 'numpy', 'redis') if name in sys.modules])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, *command], env=environment, capture_output=True, text=True, check=False
    )

    assert done.stdout.splitlines()[-1] == "[]"


def test_settings_tell_values_and_sources_and_hide_passwords(environment: dict[str, str]) -> None:
    done = run_command(
        {**environment, "RERANKQ_BROKER_URL": "redis://me:hidden@127.0.0.1/0"}, "settings", "--json"
    )

    assert '"RERANKQ_DEVICES": {"value": "cpu", "source": "environment"}' in done.stdout
    assert '"RERANKQ_MAX_BATCH_PAIRS": {"value": 32, "source": "default"}' in done.stdout
    assert "hidden" not in done.stdout


def test_telling_that_one_lives_makes_no_new_file(start: Start, tmp_path: Path) -> None:
    start("-m", "rerankq_worker", "--engine-only")
    one_score(tmp_path)
    file, before = tmp_path / "cpu0.json", health.read_status(tmp_path / "cpu0.json")
    made = file.stat().st_ino, tmp_path.stat().st_mtime_ns

    eventually(lambda: health.read_status(file) != before)

    assert (file.stat().st_ino, tmp_path.stat().st_mtime_ns) == made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 64 KiB large."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(1024)):
            pass
    assert os.statvfs(disk).f_bavail == 0


def test_a_disk_that_fills_up_leaves_a_healthy_engine_in_service(start: Start, small_disk: Path) -> None:
    launcher = start(
        "-m",
        "rerankq_worker",
        "--engine-only",
        RERANKQ_RUNTIME_DIR=str(small_disk),
        RERANKQ_STUCK_AFTER_SECONDS="1",
    )
    one_score(small_disk)
    fill(small_disk)
    before = health.read_status(small_disk / "cpu0.json")
    assert before is not None
    later = before.heartbeat_monotonic + 2
    eventually(lambda: (health.read_status(small_disk / "cpu0.json") or before).heartbeat_monotonic > later)

    assert one_score(small_disk) == [-3]
    assert [engine.pid for engine in children_of(launcher)] == [before.pid]


def test_a_full_disk_is_told_at_the_start_in_one_line(environment: dict[str, str], small_disk: Path) -> None:
    fill(small_disk)

    refused = run_command({**environment, "RERANKQ_RUNTIME_DIR": str(small_disk)}, "--engine-only")

    assert refused.returncode == os.EX_CONFIG
    assert f"nothing can be written in {small_disk} (No space left on device)" in refused.stderr
