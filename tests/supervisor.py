"""The smallest launcher: one engine on the CPU and its Celery workers, restarted when they die, drained at SIGTERM.

For what the real launcher cannot be told: another Celery app, named by `SUPERVISED_APP`.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from rerankq_worker.settings import WorkerSettings

RESTART_AFTER_SECONDS = 0.2
LOOK_EVERY_SECONDS = 0.05
DEVICE = "cpu0"
APP = os.environ.get("SUPERVISED_APP", "rerankq_worker.app:app")


@dataclass(slots=True)
class Kept:
    """A program that runs as long as the service does."""

    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    start_at: float = 0.0

    def keep(self) -> None:
        """Start it, or start it anew a moment after it died."""
        if self.process is not None and self.process.poll() is None:
            return
        if self.process is not None:
            self.process, self.start_at = None, time.monotonic() + RESTART_AFTER_SECONDS
        elif time.monotonic() >= self.start_at:
            self.process = subprocess.Popen(self.command, start_new_session=True)

    def end(self) -> None:
        """Ask it to stop, and wait."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


def engine() -> Kept:
    command = [sys.executable, "-m", "rerankq_worker", "engine"]
    return Kept([*command, "--device", DEVICE, "--parent-pid", str(os.getpid())])


def celery_worker(lane: str, queues: str) -> Kept:
    command = [sys.executable, "-m", "celery", "-A", APP, "worker", "--pool", "prefork", "--concurrency", "1"]
    command += ["-n", f"{DEVICE}-{lane}@host", "-Q", queues, "-E", "--loglevel", "INFO"]
    return Kept([*command, "--without-gossip", "--without-mingle"])


def main() -> None:
    """Keep them all until SIGTERM."""
    settings = WorkerSettings.load()
    settings.make_runtime_dir()
    os.environ["RERANKQ_ENGINE_SOCKET"] = str(settings.socket_of(DEVICE))
    asked_to_stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked_to_stop.append(number))
    workers = [
        celery_worker("interactive", "rerankq.interactive"),
        celery_worker("bulk", "rerankq.interactive,rerankq.bulk"),
    ]
    kept = [engine(), *workers]
    while not asked_to_stop:
        for program in kept:
            program.keep()
        time.sleep(LOOK_EVERY_SECONDS)
    for program in reversed(kept):
        program.end()


if __name__ == "__main__":
    main()
