"""A real Celery worker in a process of its own: started, stopped, killed, frozen."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.redis_server import RedisServer

REPOSITORY = Path(__file__).parents[2]


class WorkerProcess:
    """`celery worker` of tests.transport.app on one server, prefork with one child."""

    def __init__(
        self,
        server: RedisServer,
        *,
        queues: str = "interactive,bulk",
        lease_seconds: float = 3.0,
        url: str | None = None,
        more: Sequence[str] = (),
        **environment: str,
    ) -> None:
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(REPOSITORY / part) for part in (".", "producer", "worker")),
            "TEST_BROKER_URL": url or server.url,
            "TEST_LEASE_SECONDS": str(lease_seconds),
            **environment,
        }
        self._queues, self._more = queues, more
        self._log = tempfile.NamedTemporaryFile(prefix="rerankq-worker-", suffix=".log")  # noqa: SIM115
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        command = [sys.executable, "-m", "tests.transport.app", "--pool", "prefork", "--concurrency", "1"]
        command += ["-Q", self._queues, "-n", f"w{id(self)}@test", "--loglevel", "INFO"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat", *self._more]
        seen = len(self.log)
        self._process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=self._environment,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        if wait:
            self.wait_for_log(" ready.", since=seen)

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_for_log(self, text: str, *, since: int = 0, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log[since:]:
            assert time.monotonic() < deadline, f"expected {text!r} in the worker's log:\n{self.log[-3000:]}"
            time.sleep(0.05)

    def signal(self, which: signal.Signals) -> None:
        os.kill(self.pid, which)

    def kill(self) -> None:
        """End the worker and its child as the end of its machine would."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def wait(self, seconds: float = 40.0) -> int:
        assert self._process is not None
        return self._process.wait(timeout=seconds)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running():
            self.kill()
        self._log.close()
