"""The worker's own program, run from `rerankq`: how it ends, whatever ends it."""

import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from rerankq.local import worker_program

TELLS_OF_SIGTERM = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


def program(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    def command(given: Sequence[str]) -> list[str]:
        return [sys.executable, "-c", source, *given]

    monkeypatch.setattr(worker_program, "command", command)


def test_a_program_that_the_kernel_killed_is_told_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program(monkeypatch, "import os; os.kill(os.getpid(), 9)")

    assert worker_program.run() == 128 + signal.SIGKILL

    assert capsys.readouterr().err == (
        "rerankq-worker was ended by SIGKILL, as the kernel does where memory is short\n"
    )


def test_what_ends_the_command_ends_the_program_and_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program(monkeypatch, TELLS_OF_SIGTERM)
    ready = tmp_path / "ready"

    def end() -> None:
        while not ready.exists():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    thread = threading.Thread(target=end)
    thread.start()
    code = worker_program.run(str(ready))
    thread.join()

    assert code == 7
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
