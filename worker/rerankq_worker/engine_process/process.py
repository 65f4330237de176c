"""One device's engine in a process of its own: holds the model, serves rows over a unix socket, watches itself.

The main thread alone calls the model (`passes.py` has the life of a pass); a thread per connection listens, and reads
texts where the engine is one that does. A pass that outlives `stuck_after_seconds`, or a device that is lost, ends this
process; whoever asked keeps what there is and asks the next one, suspects alone.

Knows no Celery and no Redis; torch only behind the factory that the settings name.
"""

import fcntl
import importlib
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from multiprocessing.connection import Listener
from pathlib import Path
from urllib.parse import parse_qsl

from rerankq.contract.errors import InvalidSettings
from rerankq_worker.engine_process.desk import Asker, Desk
from rerankq_worker.engine_process.passes import Passes, first_line
from rerankq_worker.engine_process.watchdog import BROKEN, Watchdog
from rerankq_worker.link import health
from rerankq_worker.link.frames import (
    MAX_ROWS_READ_BYTES,
    BadFrame,
    Failed,
    Frame,
    Hello,
    Leaving,
    NotRead,
    RowsRead,
    RowsToScore,
    TextsToRead,
)
from rerankq_worker.link.health import EngineStatus
from rerankq_worker.model.reading import Reading, Row, Unreadable
from rerankq_worker.scoring import EngineBroken, ScoringEngine
from rerankq_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

TAKEN = os.EX_TEMPFAIL  # 75: another process serves this device
IDLE_WAIT_SECONDS = 0.2  # how soon an idle engine sees that it is asked to stop
WAITING_CONNECTIONS = 128
LONGEST_SOCKET_PATH_BYTES = 107  # of Linux: sun_path
# Turns of an idle thread before it sleeps; OpenMP's own 300,000 rob whoever shares the cores.
SPIN_COUNT = "5000"


def serve(settings: WorkerSettings, device: str, *, starts: int = 1, parent_pid: int | None = None) -> int:
    """Load the engine of a device (`cpu0`, `gpu0`) and serve until told to stop; the exit code.

    Args:
        starts: the how-manieth start this is, for the status file.
        parent_pid: stop when this process, which started us, is gone.

    Raises:
        InvalidSettings, ModelError, EngineError: the engine cannot be loaded as configured.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # read when torch is loaded
    socket_path = settings.socket_of(device)
    _refuse_long_path(socket_path)
    with _sole_owner(socket_path.with_suffix(".lock")) as is_ours:
        if not is_ours:
            log.error("another process serves %s; stop it first", socket_path)
            return TAKEN
        status = EngineStatus(
            state="loading",
            pid=os.getpid(),
            device=device,
            boot=uuid.uuid4().hex,
            starts=starts,
            started_monotonic=time.monotonic(),
        )
        watchdog = Watchdog(health.status_file(socket_path), status, settings.stuck_after_seconds, parent_pid)
        watchdog.start()
        engine = _load(settings, device, watchdog)
        EngineProcess(engine, watchdog, settings.drain_seconds).run(socket_path)
        watchdog.stop()  # not after an error: the file of a process that is dead tells that its engine is broken
    return os.EX_OK


class EngineProcess:
    """A loaded engine, and the loop that is its life."""

    def __init__(self, engine: ScoringEngine, watchdog: Watchdog, drain_seconds: float) -> None:
        self._engine = engine
        self._watchdog = watchdog
        self._drain_seconds = drain_seconds
        self._leave_at: float | None = None
        self._info = info = engine.info
        self._desk = Desk(info.max_batch_pairs, info.max_batch_tokens, info.max_length_tokens)
        self._passes = Passes(engine, self._desk, watchdog)

    def run(self, socket_path: Path) -> None:
        """Open the socket, score until told to stop and nobody waits any more, and go."""
        signal.signal(signal.SIGTERM, self._on_stop_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the launcher decides
        socket_path.unlink(missing_ok=True)  # of a predecessor that was killed
        try:
            listener = Listener(str(socket_path), "AF_UNIX", WAITING_CONNECTIONS)
        except OSError as error:
            raise InvalidSettings(
                f"no socket can be made at {socket_path} ({error.strerror}); make room there, "
                "or set RERANKQ_RUNTIME_DIR"
            ) from error
        self._report_ready()  # before anybody is greeted: who was, finds it said
        threading.Thread(target=self._accept, args=(listener,), name="accept", daemon=True).start()
        while not self._is_over():
            self._passes.go_on(IDLE_WAIT_SECONDS)
            if self._watchdog.is_orphaned and self._leave_at is None:
                self._leave()
            if self._leave_at is not None:
                with suppress(FileNotFoundError):
                    listener.close()  # whoever comes now is for the successor
                self._desk.close()
        self._passes.finish()
        self._desk.tell_all(Leaving())
        log.info("stopped")

    @property
    def _device(self) -> str:
        return self._watchdog.status.device

    def _report_ready(self) -> None:
        known = self._info
        self._watchdog.demand = self._desk.demand
        held = asdict(known) | {"device": self._device, "device_name": known.device}
        self._watchdog.status = replace(self._watchdog.status, state="ready", **held)
        self._watchdog.report()
        log.info(
            "ready after %.1f s, %s (%s) in %s on %s, at most %d pairs and %d tokens a batch",
            time.monotonic() - self._watchdog.status.started_monotonic,
            known.model,
            known.revision,
            known.dtype,
            known.device,
            known.max_batch_pairs,
            known.max_batch_tokens,
        )

    def _on_stop_signal(self, _number: int, _frame: object) -> None:
        self._leave()

    def _leave(self) -> None:
        """Go when nobody waits any more, at the latest after the grace; asked twice, go now."""
        grace_seconds = self._drain_seconds if self._leave_at is None else 0.0
        self._leave_at = time.monotonic() + grace_seconds
        self._watchdog.status = replace(self._watchdog.status, state="leaving")

    def _is_over(self) -> bool:
        if self._leave_at is None:
            return False
        return self._desk.is_idle or time.monotonic() >= self._leave_at

    def _accept(self, listener: Listener) -> None:
        while True:
            try:
                asker = Asker(listener.accept())
            except OSError as error:  # it hung up in the doorway, or descriptors ran out
                if self._leave_at is not None:
                    return
                log.warning("a connection was not accepted (%s)", error)
                time.sleep(IDLE_WAIT_SECONDS)
                continue
            threading.Thread(target=self._attend, args=(asker,), name="asker", daemon=True).start()

    def _attend(self, asker: Asker) -> None:
        self._desk.admit(asker)
        try:
            asker.send(Hello(self._watchdog.status.boot, self._info))
            while True:
                match asker.receive():
                    case RowsToScore() as ask:
                        self._desk.submit(asker, ask)
                    case TextsToRead(reading):
                        asker.send(self._read(reading))
        except (EOFError, OSError):
            pass  # it has what it wanted, or wants it no more
        except BadFrame as error:
            log.warning("hung up on a client: %s", error)
        finally:
            self._desk.dismiss(asker)
            asker.close()

    def _read(self, reading: Reading) -> Frame:
        """The rows of texts, or why there are none; in the thread of whoever asks."""
        read: Callable[[Reading], Sequence[Row]] | None = getattr(self._engine, "read", None)
        if read is None:
            return Failed("this engine reads no texts")
        try:
            rows = read(reading)
            if sum(row.token_ids.nbytes for row in rows) > MAX_ROWS_READ_BYTES // 2:
                return Failed("a text makes too many rows; bound them by max_windows_per_doc")
            return RowsRead(rows)
        except Unreadable as error:
            return NotRead(error)
        except Exception as error:  # noqa: BLE001 - the boundary; the words of an error may be the texts'
            log.warning("a job could not be read (%s)", type(error).__name__)
            return Failed(f"its texts could not be read ({type(error).__name__})")


def make_engine(settings: WorkerSettings, device: str) -> ScoringEngine:
    """The engine that `settings.engine_factory` (`module:function?name=value`) makes for a device.

    Raises:
        InvalidSettings: there is no such factory.
    """
    target, _, query = settings.engine_factory.partition("?")
    module_name, _, function_name = target.partition(":")
    try:
        factory: Callable[..., ScoringEngine] = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidSettings(f"RERANKQ_ENGINE_FACTORY: {target} cannot be imported ({error})") from error
    return factory(settings, device, **{name: _read(value) for name, value in parse_qsl(query)})


def _load(settings: WorkerSettings, device: str, watchdog: Watchdog) -> ScoringEngine:
    log.info("loading %s", settings.model)
    with watchdog.loading(settings.load_timeout_seconds):
        try:
            engine = make_engine(settings, device)
            engine.warm_up()
        except Exception as error:
            if isinstance(error, EngineBroken):  # no matter of configuration: another start may find it well
                watchdog.end("broken", BROKEN, first_line(error))
            raise
    return engine


def _read(text: str) -> float | str:
    """A number, or else a text."""
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        return text


def _refuse_long_path(socket_path: Path) -> None:
    length = len(os.fsencode(socket_path))
    if length > LONGEST_SOCKET_PATH_BYTES:
        raise InvalidSettings(
            f"expected a socket path of at most {LONGEST_SOCKET_PATH_BYTES} bytes, got {length} ({socket_path}); "
            "set RERANKQ_RUNTIME_DIR to a shorter directory"
        )


@contextmanager
def _sole_owner(lock_file: Path) -> Generator[bool]:
    """Whether we are the only process that serves this device; the kernel takes the lock back from the dead."""
    with lock_file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
