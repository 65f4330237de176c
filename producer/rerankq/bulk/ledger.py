"""The output and its errors file: appended to, made safe in steps, never ahead of the sidecar.

Knows bytes and positions; no format.
"""

import fcntl
import gzip
import os
import sys
import time
from glob import escape
from pathlib import Path
from shutil import copyfile
from typing import Protocol, Self

from rerankq.bulk import sidecar as state
from rerankq.bulk.formats import compression_of
from rerankq.bulk.outcome import Outcome
from rerankq.bulk.sidecar import Sidecar
from rerankq.bulk.tally import Tally
from rerankq.contract import wire
from rerankq.contract.errors import InvalidRequest

COMMIT_PERIOD_SECONDS = 1.0
COMMIT_BYTES = 8_000_000


class Ledger(Protocol):
    """Where outcomes go."""

    @property
    def tally(self) -> Tally:
        """What has been added so far."""
        ...

    def add(self, outcome: Outcome) -> None:
        """Append a stretch of the input; it is safe after the next commit."""
        ...

    def commit(self) -> list[str]:
        """Make all of it safe; the jobs whose answers Redis need not keep any longer."""
        ...

    @property
    def is_due(self) -> bool:
        """Whether a commit is worth its cost."""
        ...


class AppendedFile:
    """A file that is known to be good up to a point; whatever stands behind it is cut off."""

    def __init__(self, path: Path, safe_bytes: int, *, is_optional: bool = False) -> None:
        """
        Args:
            is_optional: without anything to write there will be no such file.

        Raises:
            InvalidRequest: somebody else is writing it, or it is shorter than it was.
        """
        self.path = path
        self._safe_bytes = safe_bytes
        self._waiting: list[bytes] = []
        self.waiting_bytes = 0
        self._descriptor: int | None = None
        if not is_optional or path.exists() or safe_bytes:
            self._open()

    def add(self, data: bytes) -> None:
        """Append it with the next `write_out`."""
        if data:
            self._waiting.append(data)
            self.waiting_bytes += len(data)

    def write_out(self) -> int:
        """Bring what waits to the disk; the length of the file then.

        Calling it again after a failure or an interrupt is harmless: it begins at the safe point.
        """
        if not self._waiting:
            return self._safe_bytes
        descriptor = self._open()
        data = self._packed(b"".join(self._waiting))
        os.ftruncate(descriptor, self._safe_bytes)
        os.lseek(descriptor, self._safe_bytes, os.SEEK_SET)
        _write_fully(descriptor, data)
        os.fsync(descriptor)
        return self._safe_bytes + len(data)

    def confirm(self, length_bytes: int) -> None:
        """The sidecar says so: this length is safe."""
        self._safe_bytes = length_bytes
        self._waiting = []
        self.waiting_bytes = 0

    def start_over(self) -> None:
        """Nothing in it counts any more."""
        self._safe_bytes = 0
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._lock(self._descriptor)
            self._cut_torn_end(self._descriptor)
        return self._descriptor

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidRequest(
                f"{self.path} is being written by another `rerankq bulk`; wait for it, or stop it",
                {"field": "output"},
            ) from None

    def _cut_torn_end(self, descriptor: int) -> None:
        length = os.fstat(descriptor).st_size
        if length < self._safe_bytes:
            raise InvalidRequest(
                f"expected {self.path} to have at least {self._safe_bytes:,} bytes, got {length:,}; it was changed "
                "since; --restart begins anew",
                {"field": "output"},
            )
        os.ftruncate(descriptor, self._safe_bytes)

    def _packed(self, data: bytes) -> bytes:
        """As one member of its own: gzip and zstd files may be strung together."""
        compression = compression_of(self.path.name)
        if compression == "gz":
            return gzip.compress(data, compresslevel=6, mtime=0)
        return wire.compress(data) if compression == "zst" else data


class FileLedger:
    """An output file, its errors file and its sidecar."""

    def __init__(self, out: Path, lines_path: Path, sidecar: Sidecar, header: bytes) -> None:
        """
        Args:
            out: what the sidecar and the errors file are named for.
            lines_path: where the lines go; `out` itself unless its format cannot be appended to.
        """
        self.sidecar = sidecar
        self._out = out
        self._lines = AppendedFile(lines_path, sidecar.out_bytes)
        self._errors = AppendedFile(errors_path(out), sidecar.errors_bytes, is_optional=True)
        self._tally = sidecar.tally.model_copy(deep=True)
        self._done = list(sidecar.done)
        self._job_ids: list[str] = []
        self._commit_at = time.monotonic() + COMMIT_PERIOD_SECONDS
        if sidecar.out_bytes == 0:
            self._lines.add(header)

    @property
    def tally(self) -> Tally:
        """What has been added so far."""
        return self._tally

    @property
    def is_due(self) -> bool:
        """By time, or by what waits in memory."""
        waiting = self._lines.waiting_bytes + self._errors.waiting_bytes
        return waiting > COMMIT_BYTES or (
            bool(self._job_ids or waiting) and time.monotonic() >= self._commit_at
        )

    def add(self, outcome: Outcome) -> None:
        """Append a stretch of the input."""
        self._lines.add(outcome.lines)
        self._errors.add(outcome.error_lines)
        self._tally.add(outcome.tally)
        self._done = state.with_span(self._done, (outcome.start, outcome.stop))
        self._job_ids += outcome.job_ids

    def commit(self) -> list[str]:
        """Output and errors to the disk, then the sidecar that says so."""
        self._save(is_complete=self.sidecar.is_complete)
        job_ids, self._job_ids = self._job_ids, []
        return job_ids

    def complete_round(self) -> None:
        """All that this round reads has been answered, and was committed."""
        self._save(is_complete=True)

    def begin_retry(self) -> None:
        """Put the errors aside as the next round's input."""
        kept = retry_path(self._out, self.sidecar.round + 1)
        copyfile(errors_path(self._out), kept)
        tally = self._tally
        tally.rows, tally.failed, tally.failures = tally.rows - tally.failed, 0, {}
        self._done = []
        self.sidecar = self.sidecar.model_copy(
            update={
                "round": self.sidecar.round + 1,
                "done": [],
                "errors_bytes": 0,
                "is_complete": False,
                "tally": tally.model_copy(deep=True),
            }
        )
        state.save(self._out, self.sidecar)
        self._errors.start_over()

    def end_retry(self) -> None:
        """What the round read is of no more use."""
        retry_path(self._out, self.sidecar.round).unlink(missing_ok=True)

    def drop_empty_errors(self) -> None:
        """No errors, no errors file."""
        if self.sidecar.errors_bytes == 0:
            errors_path(self._out).unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the files."""
        self._lines.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _save(self, *, is_complete: bool) -> None:
        out_bytes, errors_bytes = self._lines.write_out(), self._errors.write_out()
        sidecar = self.sidecar.model_copy(
            update={
                "done": list(self._done),
                "out_bytes": out_bytes,
                "errors_bytes": errors_bytes,
                "is_complete": is_complete,
                "tally": self._tally.model_copy(deep=True),
            }
        )
        state.save(self._out, sidecar)
        self.sidecar = sidecar
        self._lines.confirm(out_bytes)
        self._errors.confirm(errors_bytes)
        self._commit_at = time.monotonic() + COMMIT_PERIOD_SECONDS


class StreamLedger:
    """Standard output: cannot be resumed, so nothing is remembered."""

    def __init__(self, header: bytes) -> None:
        self._tally = Tally()
        self._job_ids: list[str] = []
        self._write(header)

    @property
    def tally(self) -> Tally:
        """What has been added so far."""
        return self._tally

    @property
    def is_due(self) -> bool:
        """A reader at the other end of the pipe waits."""
        return bool(self._job_ids)

    def add(self, outcome: Outcome) -> None:
        """Write a stretch of the input."""
        self._write(outcome.lines)
        self._tally.add(outcome.tally)
        self._job_ids += outcome.job_ids

    def commit(self) -> list[str]:
        """Flush."""
        sys.stdout.buffer.flush()
        job_ids, self._job_ids = self._job_ids, []
        return job_ids

    def _write(self, data: bytes) -> None:
        sys.stdout.buffer.write(data)


def errors_path(out: Path) -> Path:
    """Where the rows that failed go."""
    return out.with_name(f"{out.name}.errors.jsonl")


def retry_path(out: Path, round_number: int) -> Path:
    """The errors that a round reads again."""
    return out.with_name(f"{out.name}.errors.round{round_number}.jsonl")


def clear_away(out: Path, lines_path: Path) -> None:
    """Forget an earlier run, unless it is still going on; the files themselves are emptied by the next one.

    Raises:
        InvalidRequest: somebody is writing it.
    """
    if lines_path.exists():
        AppendedFile(lines_path, lines_path.stat().st_size).close()
    leftovers = out.parent.glob(f"{escape(out.name)}.errors.round*.jsonl")
    for path in [state.sidecar_path(out), errors_path(out), *leftovers]:
        path.unlink(missing_ok=True)


def _write_fully(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
