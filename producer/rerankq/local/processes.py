"""Processes that never outlive the one that started them. Knows nothing of what they do."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rerankq.contract import die_with_parent

LOG_TAIL_BYTES = 16_384


class LocalProcess:
    """One process in a session of its own, its output in a file.

    It gets SIGTERM when the *thread* that started it ends (Linux), be that by a crash or `kill -9`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        stdin: str = "",
    ) -> None:
        self.name = name
        self.log = log
        tied = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *command]
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours
                tied,
                env=None if environment is None else dict(environment),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C reaches us alone; we stop them in order
            )
        self._feed(stdin)

    @property
    def pid(self) -> int:
        """Of the process, and of its group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def last_lines(self, count: int = 15) -> list[str]:
        """The end of what it printed."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-count:]

    def stop(self, grace_seconds: float) -> None:
        """Ask it to end; kill it, and whatever it left in its group, when the grace is over."""
        if self.exit_code is None:
            self._process.terminate()
        try:
            self._process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            self._kill_group()

    def _feed(self, text: str) -> None:
        if self._process.stdin is None:
            return
        try:
            with self._process.stdin as stdin:
                stdin.write(text.encode())
        except BrokenPipeError:
            return  # it died first; its log says why

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # nobody is left
