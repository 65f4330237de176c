"""An output that is written once and never gone back to: standard output, `>(…)`, a named pipe, a device."""

import os
import re
import sys
from pathlib import Path
from typing import IO

from rerankq.bulk import STANDARD_STREAM
from rerankq.bulk.output.outcome import Outcome
from rerankq.bulk.output.totals import Totals
from rerankq.contract.errors import InvalidRequest

STDOUT = "/dev/stdout"
_DESCRIPTOR = re.compile(r"(?:/dev|/proc/self)/fd/(\d+)")
_DESCRIPTORS = {STANDARD_STREAM: 1, STDOUT: 1, "/dev/stderr": 2}


def is_stream(out: str) -> bool:
    """Whether what is written there passes by, also where a shell has put a file behind it."""
    path = Path(out)
    return _descriptor(out) is not None or (path.exists() and not path.is_file() and not path.is_dir())


def is_stdout(out: str) -> bool:
    """Whether that is standard output, by any of its names."""
    return _descriptor(out) == 1


class StreamLedger:
    """Cannot be resumed, so nothing is remembered."""

    def __init__(self, out: str, header: bytes) -> None:
        """Opening a named pipe waits for whoever reads it."""
        self._file = _opened(out)
        self.tally = Totals()
        self._job_ids: list[str] = []
        self._write(header)

    @property
    def is_due(self) -> bool:
        """A reader at the other end of the pipe waits."""
        return bool(self._job_ids)

    def add(self, outcome: Outcome) -> None:
        """Write a stretch of the input."""
        self._write(outcome.lines)
        self.tally.add(outcome.tally)
        self._job_ids += outcome.job_ids

    def commit(self) -> list[str]:
        """Flush."""
        self._file.flush()
        job_ids, self._job_ids = self._job_ids, []
        return job_ids

    def close(self) -> None:
        """Let whoever reads it come to its end."""
        if self._file is not sys.stdout.buffer:
            self._file.close()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]


def _opened(out: str) -> IO[bytes]:
    descriptor = _descriptor(out)
    if descriptor == 1 and sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison] - where it was closed
        raise InvalidRequest("standard output is closed; name a file", {"field": "output"})
    if descriptor == 1:
        return sys.stdout.buffer
    return open(out if descriptor is None else os.dup(descriptor), "wb", buffering=0)  # noqa: PTH123 - or a number


def _descriptor(out: str) -> int | None:
    """The number of one that is open already."""
    named = _DESCRIPTOR.fullmatch(out)
    return int(named[1]) if named else _DESCRIPTORS.get(out)
