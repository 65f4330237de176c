"""Where lines go: a file descriptor that nobody need read. Whoever writes never waits.

What is not taken is dropped, counted, and told when lines are taken again. Knows bytes; knows no record.
"""

import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

MOST_WAITING_LINES = 2_000  # 8 MB at most
LAST_LINES_WITHIN_SECONDS = 1.0


class Outlet:
    """A descriptor that is written to at once where it never blocks (a file, a pipe of our own), else by a thread."""

    def __init__(self, descriptor: int, told_of_dropped: Callable[[int], bytes]) -> None:
        """
        Args:
            told_of_dropped: the line that says how many are missing.
        """
        self._descriptor = descriptor
        self._told_of_dropped = told_of_dropped
        self._dropped = self._told = self._taken = self._put = 0
        self._is_prompt = _never_blocks(descriptor)
        # One that a signal's handler may use while the interrupted code does, unlike `Queue`.
        self._waiting: SimpleQueue[bytes] = SimpleQueue()
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._begin_anew)

    def write(self, line: bytes) -> None:
        """Write it now, or soon, or never."""
        if self._is_prompt:
            self._write(line)
        elif self._waiting.qsize() >= MOST_WAITING_LINES:
            self._dropped += 1
        else:
            self._put += 1
            self._waiting.put(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._empty, name="log", daemon=True)
                self._thread.start()

    @property
    def is_idle(self) -> bool:
        """Whether all that was taken is written, or dropped."""
        return self._taken == self._put

    def flush(self) -> None:
        """Wait, not for long, until what waits is written."""
        give_up_at = time.monotonic() + LAST_LINES_WITHIN_SECONDS
        while not self.is_idle and time.monotonic() < give_up_at:
            time.sleep(0.002)

    def _empty(self) -> None:
        while True:
            line = self._waiting.get()
            self._write(line)
            self._taken += 1

    def _write(self, line: bytes) -> None:
        missing = self._dropped - self._told
        try:
            if missing:
                _write_all(self._descriptor, self._told_of_dropped(missing))
                self._told += missing
            _write_all(self._descriptor, line)
        except OSError:  # full, or its reader has gone
            self._dropped += 1

    def _begin_anew(self) -> None:
        """After a fork: the thread is the parent's, and so is what waits."""
        self._waiting, self._thread = SimpleQueue(), None
        self._taken = self._put = 0
        self._told = self._dropped


def _write_all(descriptor: int, line: bytes) -> None:
    rest = line
    try:
        while rest := rest[os.write(descriptor, rest) :]:
            pass
    except OSError:
        _take_back(descriptor, len(line) - len(rest))
        raise


def _take_back(descriptor: int, count: int) -> None:
    """Of a file on a full disk, the beginning of a line that did not go in whole."""
    with suppress(OSError):  # a pipe, which takes a line whole or not at all
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        if count and os.fstat(descriptor).st_size == end:
            os.ftruncate(descriptor, end - count)
            os.lseek(descriptor, end - count, os.SEEK_SET)


def _never_blocks(descriptor: int) -> bool:
    with suppress(OSError):
        return not os.get_blocking(descriptor) or stat.S_ISREG(os.fstat(descriptor).st_mode)
    return True  # closed: each line fails at once
