"""The whole service for a test: a real Redis, the real launcher, an engine process and its Celery workers.

with Service(engine="rerankq_worker.doubles:slow?pair_ms=5") as service:
    service.client.rerank("q", ["a", "b"])
    service.kill(service.engine())
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil

from rerankq import RerankClient
from rerankq.contract import die_with_parent
from rerankq.settings import ClientSettings
from rerankq_worker.link import health
from tests import small_disk
from tests.conftest import OURS, REPOSITORY
from tests.redis_server import RedisServer
from tests.witness import Testimony, testimony

READY_WITHIN_SECONDS = 60.0
TIED = (
    sys.executable,
    "-I",
    "-S",
    die_with_parent.__file__,
)  # a test run that is killed leaves no service behind
DIES_WITHIN_SECONDS = 30.0


class Service:
    """`with Service(...) as service:`; everything it started is gone at the end."""

    def __init__(
        self,
        *,
        model: str | Path = "small",
        engine: str | None = None,
        appendonly: bool = False,
        lease_seconds: float = 3.0,
        app: str | None = None,
        silent_after_seconds: float | None = None,
        redis: RedisServer | None = None,
        has_small_disk: bool = False,
        output: int | None = None,
        **settings: object,
    ) -> None:
        """
        Args:
            engine: a double's factory, as in `RERANKQ_ENGINE_FACTORY`; the real engine when absent. A `tests.witness`
                writes to `witness_file`.
            app: another Celery app than the worker's own, as `module:name`.
            silent_after_seconds: when the launcher takes a worker's main process for stuck, in place of 40 s.
            redis: a server of one's own making; `with` starts and stops it.
            has_small_disk: the runtime directory is a small disk of its own, for `full_disk()`.
            output: the descriptor that launcher, engine and workers write to, in place of `log_file`.
            settings: any other setting of the worker, by its field's name.
        """
        self._output = output
        self.redis = redis or RedisServer(appendonly=appendonly)
        self._has_small_disk = has_small_disk
        bends = {"LAUNCHED_APP": app, "SILENT_AFTER_SECONDS": silent_after_seconds}
        self._bends = {name: str(value) for name, value in bends.items() if value is not None}
        self._directory = tempfile.TemporaryDirectory(prefix="rerankq-service-", ignore_cleanup_errors=True)
        self.log_file = Path(self._directory.name) / "log"
        self.witness_file = Path(self._directory.name) / "witnessed"
        chosen = {"model": model, "lease_seconds": lease_seconds, "threads": 1, "devices": "cpu", **settings}
        if engine is not None:
            chosen["engine_factory"] = engine
        self._settings = {f"RERANKQ_{name.upper()}": str(value) for name, value in chosen.items()}
        self._launcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.redis.start()
        self.client = self.producer(redis_timeout_seconds=5.0)
        self.start_launcher()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.stop_launcher(signal.SIGKILL)  # whoever asks how it stops stops it first: that takes seconds
        self.redis.__exit__()
        self._directory.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        """What a process of this service finds in its environment."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("RERANKQ_")}
        kept = {name: os.environ[name] for name in OURS if name in os.environ}
        return {
            **mine,
            **kept,
            **self._settings,
            "RERANKQ_BROKER_URL": self.redis.url,
            "RERANKQ_RUNTIME_DIR": str(self.runtime_directory),
            "PYTHONWARNINGS": "default",
            "PYTHONPATH": os.pathsep.join(str(REPOSITORY / part) for part in (".", "producer", "worker")),
            "WITNESS_FILE": str(self.witness_file),
            **self._bends,
        }

    @property
    def runtime_directory(self) -> Path:
        return Path(self._directory.name) / "run"

    def testimony(self) -> Testimony:
        """What the witness in the engine's place has scored."""
        return testimony(self.witness_file)

    def producer(self, **settings: object) -> RerankClient:
        """A client of this service, with settings of its own."""
        result_url = self._settings.get("RERANKQ_RESULT_URL")
        return RerankClient(
            settings=ClientSettings(broker_url=self.redis.url, result_url=result_url, **settings)
        )

    def start_launcher(self, *, wait: bool = True) -> None:
        """Start the worker side; by default wait until it takes jobs."""
        program = "tests.launch" if self._bends else "rerankq_worker"
        command = [*TIED, str(os.getpid()), sys.executable, "-m", program]
        if self._has_small_disk:
            command = small_disk.on_small_disk(self.runtime_directory, command)
        with self.log_file.open("ab") as log:
            self._launcher = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=self.environment,
                stdout=log if self._output is None else self._output,
                stderr=log if self._output is None else self._output,
                start_new_session=True,
            )
        if wait:
            self.wait_until(self.is_ready, READY_WITHIN_SECONDS)

    def stop_launcher(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Drain and end the worker side, or end it as told."""
        if self._launcher is None:
            return
        family = (
            [psutil.Process(self._launcher.pid), *self.processes()] if self._launcher.poll() is None else []
        )
        with contextlib.suppress(ProcessLookupError):
            self._launcher.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._launcher.wait(DIES_WITHIN_SECONDS)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._launcher.wait()
        self._launcher = None

    def is_ready(self) -> bool:
        """Whether every Celery worker says that its engine is ready."""
        assert self._launcher is not None
        assert self._launcher.poll() is None, f"the launcher ended:\n{self.log()[-3000:]}"
        workers = self.client.workers()
        return bool(workers) and all(worker.state in ("ready", "busy") for worker in workers)

    def processes(self) -> list[psutil.Process]:
        """Everything below the launcher."""
        if self._launcher is None:
            return []
        try:
            return psutil.Process(self._launcher.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def launcher(self) -> psutil.Process:
        assert self._launcher is not None
        return psutil.Process(self._launcher.pid)

    def engine(self) -> psutil.Process:
        """The process that holds the model; waits for one."""
        found: list[psutil.Process] = []

        def is_there() -> bool:
            found[:] = self._all(lambda words: "engine" in words and "rerankq_worker" in " ".join(words))
            return bool(found)

        self.wait_until(is_there, READY_WITHIN_SECONDS)
        return found[0]

    def engine_state(self) -> str:
        """What the engine's status file comes to."""
        status = health.read_status(Path(self.environment["RERANKQ_RUNTIME_DIR"]) / "cpu0.json")
        return "away" if status is None else health.judged(status).state

    def celery_worker(self, lane: str) -> psutil.Process:
        """The main process of a lane's Celery worker; waits for one that has a child to work with."""
        found: list[psutil.Process] = []

        def is_there() -> bool:
            found[:] = self._all(lambda words: any(f"-{lane}@" in word for word in words))
            pids = {process.pid for process in found}
            with contextlib.suppress(psutil.NoSuchProcess):
                found[:] = [process for process in found if process.ppid() not in pids and process.children()]
                return bool(found)
            return False

        self.wait_until(is_there, READY_WITHIN_SECONDS)
        return found[0]

    def celery_child(self, lane: str) -> psutil.Process:
        """The process in which that worker's jobs run."""
        return self.celery_worker(lane).children()[0]

    def kill(self, process: psutil.Process) -> None:
        """End a process and all below it as a power cut would, frozen or not."""
        family = [process, *process.children(recursive=True)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, DIES_WITHIN_SECONDS)

    def full_disk(self) -> contextlib.AbstractContextManager[None]:
        """The runtime directory's disk without room for a single byte, for as long as this is open."""
        return small_disk.filled(self.runtime_directory, self.launcher().pid)

    def log(self) -> str:
        """What launcher, engine and workers have written."""
        return self.log_file.read_text(errors="replace")

    def wait_until(self, is_true: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait for something to become true, or fail with the log."""
        give_up_at = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < give_up_at, f"not true within {seconds} s; log:\n{self.log()[-3000:]}"
            time.sleep(0.05)

    def _all(self, matches: Callable[[list[str]], bool]) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if matches(process.cmdline()):
                    found.append(process)
        return found


def lines_of(service: Service, job_id: str) -> str:
    """What the log says of a job, in text."""
    return "\n".join(line for line in service.log().splitlines() if f"job={job_id} " in line)
