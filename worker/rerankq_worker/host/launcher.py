"""Per device one engine process and its Celery workers, started, watched, restarted and stopped in order.

The life of a process here: started; when it ends, started anew after 1 s, then 2, 4 and so on up to 30 as long as
it does not last; a configuration error of all the engines stops all, unless they have served before.
Stopping: the Celery workers finish the job they hold while the engines go on; what is not done after the grace is
handed back to the queue; then the engines go.

Knows processes, signals and status files: no torch, no model, no job.
"""

import fcntl
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from rerankq.contract import die_with_parent
from rerankq.contract.errors import InvalidSettings
from rerankq.contract.heartbeats import unique_ending
from rerankq.contract.keys import queue_of
from rerankq.contract.log.process import tell_stacks
from rerankq_worker.host.children_log import ChildrenLog
from rerankq_worker.host.devices import CPU, Device
from rerankq_worker.link import health
from rerankq_worker.link.health import Beat, EngineStatus
from rerankq_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
FIRST_BACK_OFF_SECONDS = 1.0
LONGEST_BACK_OFF_SECONDS = 30.0
# one that lived this long did not fail to start; its next start need not wait long
LASTING_AFTER_SECONDS = 10.0
BULK_WORKERS_ON_CPU, BULK_WORKERS_BESIDE_GPU = 1, 2
HANDING_BACK_SECONDS = 10.0  # for a Celery worker to give its job back to the queue
ENGINE_STOP_SECONDS = 10.0
SLEPT_AFTER_SECONDS = 2.0  # between two looks: we were frozen ourselves
SILENCE_BEYOND_LIMIT_SECONDS = 8.0  # an engine that has not ended itself by then never will

CELERY = (sys.executable, "-m", "celery", "--quiet", "-A", "rerankq_worker.app:app")


@dataclass(slots=True)
class KeptProcess:
    """One process that is kept running."""

    name: str
    command: Callable[[int], Sequence[str]]
    """The command line of its how-manieth start."""
    environment: Mapping[str, str]
    status_file: Path | None = None
    """Of an engine: where it says how it is."""
    beat_file: Path | None = None
    """Of a Celery worker: where it tells that it lives."""
    log: ChildrenLog | None = None
    """What takes its output; ours is its own when absent."""
    starts: int = 0
    _process: "subprocess.Popen[bytes] | None" = None
    _started_at: float = 0.0
    _start_at: float = 0.0
    _back_off_seconds: float = FIRST_BACK_OFF_SECONDS
    _has_served: bool = False

    @property
    def is_running(self) -> bool:
        """Whether there is a process, as far as we have noticed."""
        return self._process is not None

    @property
    def has_given_up(self) -> bool:
        """Whether it ended because it cannot run as configured, and is not to be started again."""
        return self._start_at == math.inf

    def tend(self) -> int | None:
        """Start it when its time has come, notice its end; the exit code if it has just ended."""
        if self._process is None:
            if time.monotonic() >= self._start_at:
                self._start()
            return None
        return self.notice_end()

    def notice_end(self) -> int | None:
        """The exit code if it has just ended; negative: the signal that ended it."""
        exit_code = None if self._process is None else self._process.poll()
        if exit_code is None or self._process is None:
            return None
        lived_seconds = time.monotonic() - self._started_at
        was_in_service = self._was_in_service(self._process.pid)
        has_lasted = lived_seconds >= LASTING_AFTER_SECONDS
        self._process = None
        self._plan_restart(has_lasted or was_in_service)
        # What has served is configured rightly, and a worker as we are ourselves: a password, file or card is away.
        if exit_code == os.EX_CONFIG and self.status_file is not None and not self._has_served:
            self._start_at = math.inf  # it would only say the same again, while the others are stopped
        self._has_served |= was_in_service
        level = logging.INFO if exit_code == os.EX_OK else logging.WARNING
        log.log(level, "%s: %s after %.1f s", self.name, _how_it_ended(exit_code), lived_seconds)
        return exit_code

    def send(self, number: signal.Signals) -> None:
        """Signal it, if it runs."""
        if self._process is not None:
            self._process.send_signal(number)

    def tell_stacks(self) -> None:
        """Have it write its stacks, if it has come so far that it does: earlier the signal would end it."""
        if self.last_words() is not None or self.silence_seconds() is not None:
            self.send(signal.SIGUSR1)

    def last_words(self) -> EngineStatus | None:
        """What this very process, an engine, last said of itself; None for any other and for one that is new."""
        if self.status_file is None or self._process is None:
            return None
        status = health.read_status(self.status_file)
        return status if status is not None and status.pid == self._process.pid else None

    def silence_seconds(self) -> float | None:
        """How long this very process, a Celery worker, has not told that it lives; None: it never has."""
        if self.beat_file is None or self._process is None:
            return None
        beat = health.read_beat(self.beat_file)
        if beat is None or beat.pid != self._process.pid:
            return None
        return time.monotonic() - beat.heartbeat_monotonic

    def _start(self) -> None:
        self.starts += 1
        tie = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        output = None if self.log is None else self.log.pipe_for(self.name)
        self._process = subprocess.Popen(  # noqa: S603 - our own programs
            [*tie, *self.command(self.starts)],
            env=dict(self.environment),
            stdout=output,
            stderr=output,
            process_group=0,  # a terminal's Ctrl-C reaches us alone, and we stop them in order
        )
        if output is not None:
            os.close(output)
        self._started_at = time.monotonic()
        log.info("%s: started, pid %d", self.name, self._process.pid)

    def _was_in_service(self, pid: int) -> bool:
        """Whether an engine had its model loaded: then a job ended it, and others wait for the next one."""
        status = None if self.status_file is None else health.read_status(self.status_file)
        return status is not None and status.pid == pid and bool(status.model)

    def _plan_restart(self, has_lasted: bool) -> None:
        if has_lasted:
            self._back_off_seconds = FIRST_BACK_OFF_SECONDS
        self._start_at = time.monotonic() + self._back_off_seconds
        self._back_off_seconds = min(2 * self._back_off_seconds, LONGEST_BACK_OFF_SECONDS)


@dataclass(slots=True)
class Launcher:
    """The processes of one host, kept running until told to stop."""

    engines: Sequence[KeptProcess]
    celery_workers: Sequence[KeptProcess]
    drain_seconds: float
    stuck_after_seconds: float
    load_timeout_seconds: float
    _stop_signals: int = field(default=0, init=False)
    _awake_since: float = field(default=0.0, init=False)
    _looked_at: float = field(default=0.0, init=False)

    def run(self) -> int:
        """Keep all running until SIGTERM, SIGINT or SIGHUP; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_stop_signal)
        signal.signal(signal.SIGUSR1, self._on_stacks_signal)
        self._expect_beats()
        exit_code = os.EX_OK
        while not self._stop_signals and exit_code != os.EX_CONFIG:
            exit_code = self._tend([*self.engines, *self.celery_workers])
            time.sleep(TICK_SECONDS)
        self._stop()
        for file in self._beat_files():
            file.unlink(missing_ok=True)
        return exit_code

    def _expect_beats(self) -> None:
        """Name each worker before it lives, so that one that never does is missed, and so that there is room."""
        for file in self._beat_files():
            with _room_in(file.parent):
                health.write(file, Beat(pid=0, node=file.stem))

    def _beat_files(self) -> list[Path]:
        return [worker.beat_file for worker in self.celery_workers if worker.beat_file is not None]

    def _tend(self, processes: Iterable[KeptProcess]) -> int:
        """One look at each; `EX_CONFIG` when nothing can run as configured."""
        if time.monotonic() - self._looked_at > SLEPT_AFTER_SECONDS:
            self._awake_since = time.monotonic()
        self._looked_at = time.monotonic()
        for process in processes:
            self._kill_if_frozen(process)
            if process.tend() is None or not process.has_given_up:
                continue
            if not all(engine.has_given_up for engine in self.engines):
                # what is configured is the same for all: where another can run, this one's device is to blame
                log.error("%s cannot run as configured (it says why above); the others go on", process.name)
                continue
            log.error("%s cannot run as configured (it says why above); stopping", process.name)
            return os.EX_CONFIG
        return os.EX_OK

    def _kill_if_frozen(self, process: KeptProcess) -> None:
        """End a process that no longer tells that it lives: stopped from outside, it cannot end itself.

        Silence counts from when we were awake to hear it: frozen together and thawed, nobody is at fault.
        """
        silence_seconds, limit_seconds = process.silence_seconds(), health.BEAT_SILENT_AFTER_SECONDS
        if (status := process.last_words()) is not None:
            silence_seconds = time.monotonic() - status.heartbeat_monotonic
            limit_seconds = (
                self.load_timeout_seconds if status.state == "loading" else self.stuck_after_seconds
            )
        if silence_seconds is None or time.monotonic() - self._awake_since < SILENCE_BEYOND_LIMIT_SECONDS:
            return
        if silence_seconds > limit_seconds + SILENCE_BEYOND_LIMIT_SECONDS:
            log.error("%s: silent for %.0f s, killed", process.name, silence_seconds)
            process.send(signal.SIGKILL)

    def _stop(self) -> None:
        """Drain, hand back, end; each further signal skips one wait."""
        workers, engines = self.celery_workers, self.engines
        log.info("stopping: running jobs have %g s", self.drain_seconds)
        self._ask(workers, signal.SIGTERM, self.drain_seconds, signal_limit=1, meanwhile=self._keep_engines)
        self._ask(workers, signal.SIGQUIT, HANDING_BACK_SECONDS, signal_limit=2, meanwhile=self._keep_engines)
        self._ask(workers, signal.SIGKILL, HANDING_BACK_SECONDS, signal_limit=3)
        self._ask(engines, signal.SIGTERM, ENGINE_STOP_SECONDS, signal_limit=3)
        self._ask(engines, signal.SIGKILL, ENGINE_STOP_SECONDS, signal_limit=4)
        log.info("stopped")

    def _ask(
        self,
        processes: Sequence[KeptProcess],
        number: signal.Signals,
        wait_seconds: float,
        *,
        signal_limit: int,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Send a signal and wait for the end of all, unless more than `signal_limit` stop signals come."""
        asked = [process for process in processes if process.is_running]
        for process in asked:
            process.send(number)
        give_up_at = time.monotonic() + wait_seconds
        while asked and time.monotonic() < give_up_at and self._stop_signals <= signal_limit:
            asked = [process for process in asked if process.notice_end() is None]
            meanwhile()
            time.sleep(TICK_SECONDS / 2)

    def _keep_engines(self) -> None:
        self._tend(self.engines)

    def _on_stop_signal(self, _number: int, _frame: object) -> None:
        self._stop_signals += 1

    def _on_stacks_signal(self, _number: int, frame: FrameType | None) -> None:
        tell_stacks(frame)
        for process in [*self.engines, *self.celery_workers]:
            process.tell_stacks()


def launcher_for(
    settings: WorkerSettings,
    devices: Sequence[Device],
    *,
    engine_only: bool = False,
    log: ChildrenLog | None = None,
) -> Launcher:
    """The launcher of these devices' processes, what they write in this log; nothing is started yet."""
    engines = [_engine(settings, device) for device in devices]
    celery_workers = (
        [] if engine_only else [worker for device in devices for worker in _celery_workers(settings, device)]
    )
    for process in [*engines, *celery_workers]:
        process.log = log
    return Launcher(
        engines,
        celery_workers,
        drain_seconds=settings.drain_seconds,
        stuck_after_seconds=settings.stuck_after_seconds,
        load_timeout_seconds=settings.load_timeout_seconds,
    )


@contextmanager
def sole_launcher(runtime_dir: Path) -> Generator[None]:
    """Own the runtime directory; what dead engines left in it is removed.

    Raises:
        InvalidSettings: another launcher owns it, or its disk is full.
    """
    with _room_in(runtime_dir):
        lock = (runtime_dir / "launcher.lock").open("a+")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise InvalidSettings(
                f"another rerankq-worker (pid {lock.read().strip()}) runs in {runtime_dir}; stop it, "
                "or set RERANKQ_RUNTIME_DIR to another directory"
            ) from None
        with _room_in(runtime_dir):
            lock.truncate(0)
            os.write(lock.fileno(), str(os.getpid()).encode())
        _clear_away_the_dead(runtime_dir)
        yield


@contextmanager
def _room_in(runtime_dir: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidSettings(
            f"nothing can be written in {runtime_dir} ({error.strerror}); make room there, or set RERANKQ_RUNTIME_DIR"
        ) from error


def _engine(settings: WorkerSettings, device: Device) -> KeptProcess:
    name = device.name
    socket_path = settings.socket_of(name)

    def command(starts: int) -> list[str]:
        program = [sys.executable, "-m", "rerankq_worker", "engine", "--device", name]
        return [*program, "--starts", str(starts), "--parent-pid", str(os.getpid())]

    environment = _environment(settings, device)
    return KeptProcess(f"engine {name}", command, environment, status_file=health.status_file(socket_path))


def _celery_workers(settings: WorkerSettings, device: Device) -> list[KeptProcess]:
    interactive, bulk = queue_of("interactive"), queue_of("bulk")
    bulk_workers = settings.bulk_workers
    if bulk_workers is None:
        bulk_workers = BULK_WORKERS_ON_CPU if device == CPU else BULK_WORKERS_BESIDE_GPU
    names = {
        **dict.fromkeys(_numbered(f"{device.name}-interactive", settings.interactive_workers), interactive),
        **dict.fromkeys(_numbered(f"{device.name}-bulk", bulk_workers), f"{interactive},{bulk}"),
    }
    # one for the life of this launcher: a worker that is started anew keeps its name
    node_ending = unique_ending()
    return [
        _celery_worker(settings, device, name, f"{name}@{socket.gethostname()}{node_ending}", queues)
        for name, queues in names.items()
    ]


def _celery_worker(
    settings: WorkerSettings, device: Device, name: str, node: str, queues: str
) -> KeptProcess:
    command = [*CELERY, "worker", "--pool", "prefork", "--concurrency", "1", "-n", node, "-Q", queues]
    command += ["--without-gossip", "--without-mingle", "-E"]
    beat_file = health.beat_file(settings.runtime_path, node)
    return KeptProcess(
        f"worker {name}", lambda _: command, _environment(settings, device), beat_file=beat_file
    )


def _numbered(name: str, count: int) -> list[str]:
    return [name if number == 1 else f"{name}{number}" for number in range(1, count + 1)]


def _environment(settings: WorkerSettings, device: Device) -> dict[str, str]:
    return {
        "TQDM_DISABLE": "1",  # a log wants lines; what takes long to fetch, the launcher has fetched
        **os.environ,
        "CUDA_VISIBLE_DEVICES": device.cuda_visible_devices,
        "RERANKQ_RUNTIME_DIR": str(settings.runtime_path),
        "RERANKQ_ENGINE_SOCKET": str(settings.socket_of(device.name)),
    }


def _how_it_ended(exit_code: int) -> str:
    if exit_code < 0:
        return f"ended by {signal.Signals(-exit_code).name}"
    return f"ended with exit code {exit_code}"


def _clear_away_the_dead(runtime_dir: Path) -> None:
    for file in runtime_dir.glob(f"*{health.BEAT_SUFFIX}"):
        beat = health.read_beat(file)
        if beat is None or not beat.pid or not health.is_alive(beat.pid):
            file.unlink(missing_ok=True)
    for file in runtime_dir.glob("*.json"):
        status = health.read_status(file)
        if status is None or not health.is_alive(status.pid):
            file.unlink(missing_ok=True)
            file.with_suffix(".sock").unlink(missing_ok=True)
