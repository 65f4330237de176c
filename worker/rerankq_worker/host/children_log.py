"""What the processes of a host write, passed on as lines of its log.

Lines of ours go on as they are. Anything else (what C code prints, a crash, a traceback before there is a log) becomes
a record under the process's name, and lines that belong together one record.

Each process has a pipe that never blocks it: with nobody to read, as while we are frozen, its lines are dropped.
"""

import fcntl
import os
import select
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

from rerankq.contract.log.lines import LONGEST_LINE_BYTES
from rerankq.contract.log.process import LineHandler

SETTLES_WITHIN_MS = 100  # what a process prints in one go comes in one go
LAST_LINES_WITHIN_SECONDS = 1.0
GATHERS_SECONDS = (
    0.02  # under load many lines come at once then, and neither they nor we wake anybody for each
)
_PIPE_BYTES = 1 << 18  # what may come meanwhile
_READ_BYTES = 65_536
_MOST_LINES = 100  # of a record
_TRACEBACK, _CRASH = b"Traceback (", b"Fatal Python error"


class ChildrenLog:
    """The pipes of a host's processes, each emptied by a thread."""

    def __init__(self, handler: LineHandler) -> None:
        """
        Args:
            handler: where lines go.
        """
        self._handler = handler
        self._threads: list[threading.Thread] = []

    def pipe_for(self, process: str) -> int:
        """A descriptor for its stdout and stderr, to be closed once it has been started."""
        ours, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):  # many users' pipes are as large as they may be
            fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        told = _Told(process, self._handler)
        thread = threading.Thread(target=_empty, args=(ours, told), name=f"log of {process}", daemon=True)
        self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
        thread.start()
        return theirs

    def finish(self) -> None:
        """Pass on what is left of processes that have ended."""
        give_up_at = time.monotonic() + LAST_LINES_WITHIN_SECONDS
        for thread in self._threads:
            thread.join(max(give_up_at - time.monotonic(), 0))


class _Told:
    """What one process has written, in pieces."""

    def __init__(self, process: str, handler: LineHandler) -> None:
        self._process, self._handler = process, handler
        self._rest = b""
        self._block: list[bytes] = []

    @property
    def is_pending(self) -> bool:
        return bool(self._rest or self._block)

    def take(self, piece: bytes) -> None:
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            self._take_line(line)
        if len(self._rest) > LONGEST_LINE_BYTES:
            self.settle()

    def settle(self) -> None:
        """Nothing more comes for now."""
        if self._rest and self._handler.lines.begins_in(self._rest) != 0:  # of ours, the rest is on its way
            self._take_line(self._rest)
            self._rest = b""
        self._tell_block()

    def _take_line(self, line: bytes) -> None:
        at = self._handler.lines.begins_in(line)
        if at is None:
            self._take_others(line)
            return
        self._take_others(line[:at])  # something that another thread, or a child, had not ended yet
        self._tell_block()
        self._handler.pass_on(line[at:] + b"\n")

    def _take_others(self, line: bytes) -> None:
        # Of a bar that is drawn over and over the last.
        line = line.rpartition(b"\r")[2] or line.rstrip(b"\r")
        if line.strip():
            if not _goes_on(self._block, line) or len(self._block) >= _MOST_LINES:
                self._tell_block()
            self._block.append(line)

    def _tell_block(self) -> None:
        if not self._block:
            return
        head, *more = (line.decode(errors="replace") for line in self._block)
        is_trouble = self._block[0].startswith((_TRACEBACK, _CRASH))
        self._block = []
        line = self._handler.lines.line(
            head.strip(),
            level="ERROR" if is_trouble else "WARNING",
            logger="stderr",
            exc="\n".join(more) if more else None,
            process=self._process,
        )
        self._handler.pass_on(line)


def _goes_on(block: Sequence[bytes], line: bytes) -> bool:
    """Whether a line belongs to those before it: it is indented, or says at last what a traceback is of."""
    if not block:
        return True
    is_last_of_traceback = block[0].startswith(_TRACEBACK) and block[-1][:1].isspace()
    return line[:1].isspace() or is_last_of_traceback


def _empty(descriptor: int, told: _Told) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        if not poll.poll(SETTLES_WITHIN_MS if told.is_pending else None):
            told.settle()
            continue
        piece = os.read(descriptor, _READ_BYTES)
        if not piece:
            break
        told.take(piece)
        time.sleep(GATHERS_SECONDS)
    told.settle()
    os.close(descriptor)
