"""A real engine process with a double inside, restarted when it dies, as the launcher would."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rerankq.contract.messages import Lane
from rerankq_worker.link import health
from rerankq_worker.link.client import EngineClient
from rerankq_worker.link.health import EngineStatus
from rerankq_worker.scoring import TokenIds

PATIENCE_SECONDS = 60.0


class EngineUnderTest:
    """Start with `start`, ask with `client` or `scores`, end with `stop`."""

    def __init__(self, runtime_dir: Path, factory: str, **variables: str) -> None:
        self.socket_path = runtime_dir / "cpu0.sock"
        self.exit_codes: list[int] = []
        self.client = EngineClient(self.socket_path, PATIENCE_SECONDS)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RERANKQ_")},
            "RERANKQ_RUNTIME_DIR": str(runtime_dir),
            "RERANKQ_ENGINE_FACTORY": f"rerankq_worker.doubles:{factory}",
            **variables,
        }
        self._is_stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = threading.Thread(target=self._keep_alive, daemon=True)
        self._callers = ThreadPoolExecutor(64)

    def start(self) -> None:
        self._keeper.start()
        self.client.describe()

    def stop(self) -> None:
        self._is_stopping = True
        while self._keeper.is_alive():  # it may be about to start one more
            self.process.kill()
            self._keeper.join(0.1)
        self._callers.shutdown()

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None
        return self._process

    @property
    def status(self) -> EngineStatus:
        status = health.read_status(health.status_file(self.socket_path))
        assert status is not None
        return health.judged(status)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)

    def scores(
        self, rows: Sequence[TokenIds], *, job_id: str = "job", lane: Lane = "bulk"
    ) -> npt.NDArray[np.float32]:
        """All logits of a job; fails the test when a row is scored twice or never."""
        logits = np.zeros(len(rows), dtype=np.float32)
        times = np.zeros(len(rows), dtype=np.int64)
        for scored in self.client.scores(rows, job_id=job_id, lane=lane):
            logits[scored.indices] = scored.logits
            times[scored.indices] += 1
        assert (times == 1).all()
        return logits

    def ask(
        self, rows: Sequence[TokenIds], *, job_id: str = "job", lane: Lane = "bulk"
    ) -> "Future[npt.NDArray[np.float32]]":
        """The same, without waiting."""
        return self._callers.submit(self.scores, rows, job_id=job_id, lane=lane)

    def _keep_alive(self) -> None:
        while not self._is_stopping:
            command = [sys.executable, "-m", "rerankq_worker", "engine", "--device", "cpu0"]
            self._process = subprocess.Popen(command, env=self._environment)
            self.exit_codes.append(self._process.wait())


def rows_of(*lengths: int, token: int = 5) -> list[TokenIds]:
    """Rows of these lengths, every token the same."""
    return [np.full(length, token, dtype=np.int32) for length in lengths]


def expected(rows: Sequence[TokenIds]) -> npt.NDArray[np.float32]:
    """What the doubles answer."""
    return np.array([-len(row) for row in rows], dtype=np.float32)


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it holds; fail when it never does."""
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < give_up_at, "it never came true"
        time.sleep(0.02)
