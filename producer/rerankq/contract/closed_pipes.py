"""A command whose output nobody reads any more, `rerankq settings | head`, or that has no room for it.

Knows no command. SIGPIPE's own way would be shorter, and end the process at each connection that Redis closes, too.
"""

import errno
import os
import select
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TextIO

EXIT_CODE = 128 + signal.SIGPIPE
"""What a shell tells of a program that SIGPIPE has ended."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def ends_quietly() -> Generator[None]:
    """End the process without a word where this writes to somebody who is gone, with a line where to a full disk."""
    try:
        try:
            yield
        finally:
            _flush()
    except (BrokenPipeError, SystemExit) as error:
        if not _is_of_an_output(error):
            raise
        for stream in filter(_is_unread, (sys.stdout, sys.stderr)):
            _send_nowhere(stream)
        raise SystemExit(EXIT_CODE) from None
    except OSError as error:
        if error.errno not in _NO_ROOM or not _has_no_room(sys.stdout):
            raise
        _send_nowhere(sys.stdout)
        print(f"its output cannot be written: {error.strerror}; free space where it goes", file=sys.stderr)
        raise SystemExit(1) from None


def _flush() -> None:
    """Before the interpreter's end, which would be too late; of no stream at all that tells."""
    try:
        sys.stdout.flush()
    except (AttributeError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, *_NO_ROOM):
            raise


def _send_nowhere(stream: TextIO) -> None:
    """What is left in it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _has_no_room(stream: TextIO | None) -> bool:
    """Not another file, whose error is the command's own; only a write tells."""
    if stream is None:
        return False
    try:
        stream.flush()
        os.write(stream.fileno(), b"\n")
    except OSError as error:
        return error.errno in _NO_ROOM
    except (AttributeError, ValueError):  # one of a test's
        return False
    return False


def _is_of_an_output(error: BaseException) -> bool:
    """Not of a connection; typer and rich have made an exit of it already, and rich has sent what is left nowhere."""
    if isinstance(error, BrokenPipeError):
        return any(map(_is_unread, (sys.stdout, sys.stderr)))
    return isinstance(error.__context__, BrokenPipeError)


def _is_unread(stream: TextIO | None) -> bool:
    if stream is None:
        return False
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # one of a test's
        return False
