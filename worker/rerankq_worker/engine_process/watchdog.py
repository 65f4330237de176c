"""Watch one engine process from a thread of its own: heartbeat file, hung passes, a parent that died.

Two dead man's switches: this thread ends the process when a pass outlives its limit; should the pass never give the
interpreter back, so that this thread cannot run either, faulthandler's timer, which needs no interpreter, does.
Knows no model, no socket and no job.
"""

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NoReturn

from rerankq.contract.errors import InvalidSettings
from rerankq_worker.link import health
from rerankq_worker.link.health import Demand, EngineStatus, State, Tally

log = logging.getLogger(__name__)

STUCK = os.EX_SOFTWARE  # 70: a pass or the loading outlived its limit
BROKEN = os.EX_OSERR  # 71: the device is lost to this process

MERCY_SECONDS = 5  # what faulthandler's timer gives this thread to do it in better order


@dataclass(slots=True, eq=False)
class Work:
    """Something that may take only so long."""

    since: float
    limit_seconds: float
    what: str

    @property
    def age_seconds(self) -> float:
        """How long it has been on the device."""
        return time.monotonic() - self.since


class Watchdog:
    """The heartbeat of one engine, and its end when it hangs."""

    def __init__(
        self, file: Path, status: EngineStatus, stuck_after_seconds: float, parent_pid: int | None
    ) -> None:
        """Nothing happens before `start`.

        Args:
            status: what to tell for now; each heartbeat adds counters and the time.
            stuck_after_seconds: how long one forward pass may take.
            parent_pid: `is_orphaned` once this is no longer our parent; None: nobody's child.
        """
        self.tally = Tally({counter: getattr(status, counter) for counter in health.COUNTERS})
        self.status = status
        self.demand: Callable[[], Demand] = Demand
        self.is_orphaned = False
        self._file = file
        self._stuck_after_seconds = stuck_after_seconds
        self._parent_pid = parent_pid
        self._works: tuple[Work, ...] = ()
        self._is_stopped = threading.Event()
        self._writing = threading.Lock()
        self._is_mute = False
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Report at once, and with every heartbeat from now on.

        Raises:
            InvalidSettings: there is no room for the status file, without which a healthy engine would seem dead.
        """
        try:
            health.write(self._file, self._status_now())
        except OSError as error:
            raise InvalidSettings(
                f"nothing can be written to {self._file} ({error.strerror}); make room there, "
                "or set RERANKQ_RUNTIME_DIR"
            ) from error
        self._thread.start()

    def stop(self) -> None:
        """Report no more and leave no file behind: this engine is gone, not broken."""
        self._is_stopped.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        self._file.unlink(missing_ok=True)

    @contextmanager
    def loading(self, limit_seconds: float) -> Generator[None]:
        """The engine is loaded in here; longer than the limit ends the process."""
        self._works = (Work(time.monotonic(), limit_seconds, "loading"),)
        yield
        self._works = ()
        self._rewind_the_last_resort()  # the first pass may come before the next heartbeat

    def begin_pass(self) -> Work:
        """A forward pass is begun; longer than `stuck_after_seconds` on the device ends the process."""
        work = Work(time.monotonic(), self._stuck_after_seconds, "a forward pass")
        self._works = (*self._works, work)
        return work

    def end_pass(self, work: Work, pairs: int = 0, tokens: int = 0) -> float:
        """The pass is over, and scored so much; the seconds it was on the device. One begun behind it is there now."""
        seconds = work.age_seconds
        later = tuple(other for other in self._works if other is not work)
        if later and later[0] is not self._works[0]:
            later[0].since = time.monotonic()
        self._works = later
        self.tally.add_pass(pairs, tokens, seconds)
        return seconds

    def report(self) -> None:
        """Write the status file now; what keeps it from that is told once and ends nothing."""
        with self._writing:
            try:
                health.write(self._file, self._status_now())
                self._is_mute = False
            except OSError as error:
                if not self._is_mute:
                    log.warning("no heartbeat could be written (%s)", error)
                self._is_mute = True

    def end(self, state: State, exit_code: int, reason: str) -> NoReturn:
        """End the process as it stands: after this a device or a thread cannot be trusted to be cleaned up."""
        log.error("%s: %s", state, reason)
        self.status = replace(self.status, state=state)
        self.report()
        logging.shutdown()
        os._exit(exit_code)

    def _run(self) -> None:
        period_seconds = min(health.HEARTBEAT_SECONDS, self._stuck_after_seconds / 4)
        while not self._is_stopped.wait(period_seconds):
            self._rewind_the_last_resort()
            self._end_if_stuck()
            self._notice_the_parent()
            self.report()

    def _rewind_the_last_resort(self) -> None:
        work = self._work
        limit_seconds = self._stuck_after_seconds if work is None else work.limit_seconds
        faulthandler.dump_traceback_later(limit_seconds + MERCY_SECONDS, exit=True)

    @property
    def _work(self) -> Work | None:
        works = self._works  # the main thread may end it at any moment
        return works[0] if works else None

    def _end_if_stuck(self) -> None:
        work = self._work
        if work is not None and work.age_seconds > work.limit_seconds:
            self.end("stuck", STUCK, f"{work.what} is not over after {work.limit_seconds:g} s")

    def _notice_the_parent(self) -> None:
        if self._parent_pid is None or os.getppid() == self._parent_pid:
            return
        self.is_orphaned = True
        if self.status.state == "loading":
            self.end("broken", BROKEN, "the launcher is gone")

    def _status_now(self) -> EngineStatus:
        demand, work, tally = self.demand(), self._work, self.tally
        is_busy = work is not None or any(demand.waiting_rows.values())
        return replace(
            self.status,
            state="busy" if self.status.state == "ready" and is_busy else self.status.state,
            heartbeat_monotonic=time.monotonic(),
            pass_age_seconds=None if work is None else work.age_seconds,
            pairs_per_second=tally.pairs_per_second,
            **asdict(demand),
            **tally.counts,
        )
