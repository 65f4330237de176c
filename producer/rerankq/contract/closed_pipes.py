"""A command whose output nobody reads any more: `rerankq settings | head`.

Knows no command. SIGPIPE's own way would be shorter, and end the process at each connection that Redis closes, too.
"""

import os
import select
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TextIO

EXIT_CODE = 128 + signal.SIGPIPE
"""What a shell tells of a program that SIGPIPE has ended."""


@contextmanager
def ends_quietly() -> Generator[None]:
    """End the process without a word, by `EXIT_CODE`, where this writes to somebody who is gone."""
    try:
        try:
            yield
        finally:
            _flush()
    except (BrokenPipeError, SystemExit) as error:
        if not _is_of_an_output(error):
            raise
        for stream in filter(_is_unread, (sys.stdout, sys.stderr)):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what is left has nowhere to go
        raise SystemExit(EXIT_CODE) from None


def _flush() -> None:
    """Before the interpreter's end, which would be too late; of a full disk, or of no stream at all, that tells."""
    try:
        sys.stdout.flush()
    except (AttributeError, OSError, ValueError) as error:
        if isinstance(error, BrokenPipeError):
            raise


def _is_of_an_output(error: BaseException) -> bool:
    """Not of a connection; typer and rich have made an exit of it already, and rich has sent what is left nowhere."""
    if isinstance(error, BrokenPipeError):
        return any(map(_is_unread, (sys.stdout, sys.stderr)))
    return isinstance(error.__context__, BrokenPipeError)


def _is_unread(stream: TextIO | None) -> bool:
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # type: ignore[union-attr]
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # none, or one of a test's
        return False
