"""A command whose reader leaves, `rerankq settings | head`, ends without a word."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rerankq.contract.closed_pipes import EXIT_CODE, ends_quietly
from tests.conftest import REPOSITORY

SIMULATION = ("-m", "benchmarks.simulation", "--pairs-per-second", "100", "--rate", "1", "--seconds", "5")
COMMANDS = {
    "help": ("-m", "rerankq.cli", "--help"),
    "a table": ("-m", "rerankq.cli", "settings"),
    "JSON": ("-m", "rerankq.cli", "settings", "--json"),
    "a worker's table": ("-m", "rerankq_worker", "settings"),
    "a benchmark": SIMULATION,
    "a benchmark whose lines leave at once": ("-u", *SIMULATION),
    "a file that is written out of the code": ("deploy/env_example.py",),
    "one for which nothing is installed": ("deploy/prometheus_rule.py",),
}
LOUD = {
    "asked_service.py",  # another program's
    "bench_engine.py",  # runs where of ours there is the engine alone, and outlives contestants whose pipes close
}
QUIET = re.compile(r"    (with ends_quietly|signal.signal\(signal.SIGPIPE, signal.SIG_DFL\))")


def to_nobody(*words: str, stream: str = "stdout") -> tuple[int, str]:
    """The exit code of what writes into a pipe that is closed, and what it says by the other."""
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "RERANKQ_BROKER_URL": "redis://127.0.0.1:1/0"}
    with os.fdopen(writing, "wb") as pipe:
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: pipe}
        done = subprocess.run([sys.executable, *words], cwd=REPOSITORY, env=environment, text=True, **streams)
    return done.returncode, done.stderr or done.stdout or ""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_nobody_reads_ends_as_sigpipe_ends_one_and_says_nothing(name: str) -> None:
    code, complaints = to_nobody(*COMMANDS[name])

    assert (code, complaints) in [(EXIT_CODE, ""), (-signal.SIGPIPE, "")]


def test_a_failure_of_which_nobody_hears_ends_so_too() -> None:
    assert to_nobody("-m", "rerankq.cli", "lanes", stream="stderr") == (EXIT_CODE, "")


@pytest.mark.parametrize("options", [(), ("-u",)], ids=["at its end", "line by line"])
@pytest.mark.parametrize("module", ["rerankq.cli", "rerankq_worker"])
def test_an_output_that_has_no_room_is_told_in_one_line(module: str, options: tuple[str, ...]) -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    command = [sys.executable, *options, "-m", module, "settings"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)

    told = "its output cannot be written: No space left on device; free space where it goes\n"
    assert (done.returncode, done.stderr) == (1, told)


def test_a_full_disk_elsewhere_is_no_output_without_room() -> None:
    with pytest.raises(OSError, match="No space"), ends_quietly():
        raise OSError(errno.ENOSPC, "No space left on device")


def test_every_program_of_benchmarks_and_deploy_ends_so() -> None:
    programs = [
        (path.name, path.read_text().partition('if __name__ == "__main__":\n')[2])
        for folder in ("benchmarks", "deploy")
        for path in (REPOSITORY / folder).rglob("*.py")
    ]

    loud = {name for name, main in programs if main and not QUIET.match(main)}
    assert loud == LOUD


def test_a_connection_that_is_closed_is_no_reader_that_left() -> None:
    with pytest.raises(BrokenPipeError), ends_quietly():
        raise BrokenPipeError
