"""One local service for all tests of the command line, and the command itself as a user runs it."""

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

import pytest

from rerankq.cli import main
from rerankq.local.stack import LocalStack


class Command:
    """`rerankq …` in a process of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "rerankq.cli", *arguments],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def run(self, *arguments: str, stdin: str = "", exit_code: int = 0) -> "Done":
        with self.start(*arguments) as process:
            out, err = process.communicate(stdin, timeout=170)
        assert process.returncode == exit_code, f"exit code {process.returncode}\n{out}\n{err}"
        return Done(out, err)


class CommandInHere(Command):
    """`rerankq …` in this very process, which spares it the start of another: what only that shows is not seen."""

    def run(self, *arguments: str, stdin: str = "", exit_code: int = 0) -> "Done":
        out, err, code = io.StringIO(), io.StringIO(), 0
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.multiple(sys, argv=["rerankq", *arguments], stdin=io.StringIO(stdin)),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as end:
                code = end.code or 0
        assert code == exit_code, f"exit code {code}\n{out.getvalue()}\n{err.getvalue()}"
        return Done(out.getvalue(), err.getvalue())


class Done:
    """What a command printed."""

    def __init__(self, out: str, err: str) -> None:
        self.out = out
        self.err = err


@pytest.fixture(scope="session")
def stack() -> Iterator[LocalStack]:
    with LocalStack(model="small") as stack:
        yield stack


@pytest.fixture
def rerankq(stack: LocalStack) -> Command:
    """The command, pointed at the shared service."""
    return Command({**plain_environment(), "RERANKQ_BROKER_URL": stack.broker_url})


@pytest.fixture
def rerankq_here(rerankq: Command) -> CommandInHere:
    """The same without the start of a process; each command has a test that runs it as its user does."""
    return CommandInHere(rerankq.environment)


@pytest.fixture
def rerankq_alone() -> Command:
    """The command where nobody has started anything."""
    return Command({**plain_environment(), "RERANKQ_BROKER_URL": "redis://127.0.0.1:1/0"})


def plain_environment() -> dict[str, str]:
    """Wide enough for a line, patient enough for a busy machine, without colours and a developer's own settings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RERANKQ_") or name == "RERANKQ_CACHE_DIR"
    }
    return {**kept, "COLUMNS": "120", "NO_COLOR": "1", "RERANKQ_REDIS_TIMEOUT_SECONDS": "10"}
