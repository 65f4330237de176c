"""The worker's own program, as the asking side may know it: by its command line. It is run, never imported."""

import importlib.util
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from rerankq.local.failure import Unavailable

_PROGRAM = ("rerankq_worker", "tokenizers", "safetensors")
_ENGINE = ("torch", "transformers")  # an image that only fetches models does without
_QUEUE = ("celery",)
_MISSING = "the worker is not installed in this Python; `pip install 'rerankq[worker,local]'` brings it"


def is_installed() -> bool:
    """Whether its parts are there; they are looked for, not imported."""
    return _found(_PROGRAM)


def may_serve() -> bool:
    """Whether it was installed to serve, complete or not; who only fetches models has nothing that does."""
    return is_installed() and any(_found([name]) for name in (*_QUEUE, *_ENGINE))


def command(arguments: Sequence[str] = ()) -> list[str]:
    """Its command line.

    Raises:
        Unavailable: it is not installed.
    """
    if not is_installed():
        raise Unavailable(_MISSING)
    return [sys.executable, "-m", "rerankq_worker", *arguments]


def serving_command() -> list[str]:
    """The command line that serves a model here until it is stopped.

    Raises:
        Unavailable: it or what it computes with is not installed.
    """
    if not _found(_ENGINE):
        raise Unavailable(_MISSING)
    return command()


def run(*arguments: str) -> int:
    """Run it in this terminal, and leave it to itself to end on a signal; its exit code."""
    with subprocess.Popen(command(arguments)) as process:  # noqa: S603 - our own program
        before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda _number, _frame: process.terminate()),
            signal.SIGINT: signal.signal(
                signal.SIGINT, lambda _number, _frame: None
            ),  # a terminal tells both
        }
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    why = ", as the kernel does where memory is short" if name == "SIGKILL" else ""
    print(f"rerankq-worker was ended by {name}{why}", file=sys.stderr)
    return 128 - code


def lines_of(*arguments: str, environment: Mapping[str, str]) -> Iterator[str]:
    """Each line that it prints, as it comes; it ends with who reads them.

    Raises:
        Unavailable: it failed; the message ends with its own last line.
    """
    program = subprocess.Popen(  # noqa: S603 - our own program
        command(arguments), env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with program:
        try:
            yield from program.stdout or ()
        except BaseException:
            program.terminate()
            raise
        said = program.stderr.read() if program.stderr else ""
    if program.returncode != 0:
        raise Unavailable(f"`rerankq-worker {' '.join(arguments)}` failed: {_last_line(said)}")


def ask(*arguments: str) -> str:
    """What it prints.

    Raises:
        Unavailable: it failed; the message ends with its own last line.
    """
    done = subprocess.run(command(arguments), check=False, capture_output=True, text=True)  # noqa: S603 - our own
    if done.returncode != 0:
        raise Unavailable(f"`rerankq-worker {' '.join(arguments)}` failed: {_last_line(done.stderr)}")
    return done.stdout


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or ["it said nothing"])[-1]


def _found(names: Sequence[str]) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in names)
