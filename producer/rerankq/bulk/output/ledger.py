"""The output and its errors file: appended to, made safe in steps, never ahead of the sidecar.

Knows bytes and positions; no format.
"""

import fcntl
import gzip
import os
import time
from dataclasses import dataclass, field
from glob import escape
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from shutil import copyfile
from typing import Any, Self

from rerankq.bulk.formats.names import compression_of
from rerankq.bulk.output import sidecar as state
from rerankq.bulk.output.outcome import Outcome
from rerankq.bulk.output.sidecar import Sidecar, errors_path
from rerankq.contract import wire
from rerankq.contract.errors import InvalidRequest

COMMIT_PERIOD_SECONDS = 1.0
COMMIT_BYTES = 8_000_000


class AppendedFile:
    """A file that is good up to a point that its owner knows; whatever stands behind it is cut off."""

    def __init__(self, path: Path, safe_bytes: int | None, *, is_optional: bool = False) -> None:
        """
        Args:
            safe_bytes: what stands behind them is cut off; None leaves the file as it is.
            is_optional: without anything to write there will be no such file.

        Raises:
            InvalidRequest: somebody else is writing it, or it is shorter than it was.
        """
        self.path = path
        self._descriptor: int | None = None
        if path.exists() or not is_optional:
            descriptor = self._open()
            if safe_bytes is not None:
                self._cut_torn_end(descriptor, safe_bytes)
        elif safe_bytes:
            raise changed(path, safe_bytes, None)

    def write_at(self, safe_bytes: int, data: bytes) -> int:
        """Bring the data to the disk behind the safe point; the length of the file then.

        Calling it again after a failure or an interrupt is harmless.
        """
        if not data:
            return safe_bytes
        descriptor, packed = self._open(), self._packed(data)
        os.ftruncate(descriptor, safe_bytes)
        os.lseek(descriptor, safe_bytes, os.SEEK_SET)
        _write_fully(descriptor, packed)
        os.fsync(descriptor)
        return safe_bytes + len(packed)

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is not None:
            return self._descriptor
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return self._descriptor
        except BlockingIOError:
            raise InvalidRequest(
                f"{self.path} is being written by another `rerankq bulk`; wait for it, or stop it",
                {"field": "output"},
            ) from None

    def _cut_torn_end(self, descriptor: int, safe_bytes: int) -> None:
        length = os.fstat(descriptor).st_size
        if length < safe_bytes:
            raise changed(self.path, safe_bytes, length)
        os.ftruncate(descriptor, safe_bytes)

    def _packed(self, data: bytes) -> bytes:
        """As one member of its own: gzip and zstd files may be strung together."""
        compression = compression_of(self.path.name)
        if compression == "gz":
            return gzip.compress(data, compresslevel=6, mtime=0)
        return wire.compress(data) if compression == "zst" else data


@dataclass(slots=True)
class Page:
    """What is safe, and what waits for the next commit.

    The two change together, in one assignment: an interrupt (Ctrl-C comes between any two instructions) finds either
    the page before a commit or the one after it, so that nothing is written twice or forgotten.
    """

    sidecar: Sidecar
    waiting: list[Outcome] = field(default_factory=list[Outcome])
    waiting_bytes: int = 0


class FileLedger:
    """An output file, its errors file and its sidecar."""

    def __init__(self, out: Path, lines_path: Path, sidecar: Sidecar, header: bytes) -> None:
        """
        Args:
            out: what the sidecar and the errors file are named for.
            lines_path: where the lines go; `out` itself unless its format cannot be appended to.
        """
        self._out = out
        self._header = header
        self._lines = AppendedFile(lines_path, sidecar.out_bytes)
        # Of a round that is through, the errors file is the user's: mended in place, it is what comes next.
        errors_safe = None if sidecar.is_complete else sidecar.errors_bytes
        self._errors_digest = _digest_of(errors_path(out), errors_safe, sidecar.errors_digest)
        self._errors = AppendedFile(errors_path(out), errors_safe, is_optional=True)
        self._page = Page(sidecar)
        self.tally = sidecar.tally.model_copy(deep=True)
        """Of what has been added so far; ahead of the sidecar's by what waits."""
        self._commit_at = time.monotonic() + COMMIT_PERIOD_SECONDS

    @property
    def sidecar(self) -> Sidecar:
        """What is safe."""
        return self._page.sidecar

    @property
    def is_due(self) -> bool:
        """By time, or by what waits in memory."""
        page = self._page
        return page.waiting_bytes > COMMIT_BYTES or (
            bool(page.waiting) and time.monotonic() >= self._commit_at
        )

    def add(self, outcome: Outcome) -> None:
        """Append a stretch of the input."""
        self._page.waiting_bytes += outcome.size_bytes
        self.tally.add(outcome.tally)
        self._page.waiting.append(outcome)

    def commit(self) -> list[str]:
        """Output and errors to the disk, then the sidecar that says so."""
        return self._commit(is_complete=self.sidecar.is_complete)

    def complete_round(self, first_free: int = 0) -> None:
        """All that this round reads has been answered, and was committed.

        Args:
            first_free: the place behind the last row that was read, where that is more than were chosen.
        """
        left_out = first_free - sum(stop - start for start, stop in self.sidecar.done)
        self._commit(is_complete=True, first_free=max(self.sidecar.first_free, left_out))

    def begin_retry(self) -> None:
        """Put the errors aside, as they stand now, as the next round's input."""
        sidecar = self.sidecar
        refuse_no_errors(self._out, sidecar)
        copyfile(errors_path(self._out), retry_path(self._out, sidecar.round + 1))
        self._errors_digest = blake2b()
        tally = sidecar.tally.model_copy(deep=True)
        tally.rows, tally.failed, tally.failures, tally.reasons = tally.rows - tally.failed, 0, {}, []
        tally.quality.failed = 0
        anew = {
            "round": sidecar.round + 1,
            "first_free": sidecar.first_free + sum(stop - start for start, stop in sidecar.done),
            "done": [],
            "errors_bytes": 0,
            "errors_digest": self._errors_digest.hexdigest(),
            "is_complete": False,
            "tally": tally,
        }
        self._turn_to(sidecar.model_copy(update=anew))
        self.tally = tally.model_copy(deep=True)

    def end_retry(self) -> None:
        """What the round read is of no more use."""
        retry_path(self._out, self.sidecar.round).unlink(missing_ok=True)

    def note_whole_file(self, path: Path) -> None:
        """Remember the file that the gathered lines were turned into."""
        self._turn_to(self.sidecar.model_copy(update={"whole_bytes": path.stat().st_size}))

    def drop_empty_errors(self) -> None:
        """No errors, no errors file."""
        if self.sidecar.errors_bytes == 0:
            errors_path(self._out).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._errors.close()

    def _commit(self, *, is_complete: bool, **more: Any) -> list[str]:
        page = self._page
        header = self._header if page.sidecar.out_bytes == 0 else b""
        lines = header + b"".join(outcome.lines for outcome in page.waiting)
        error_lines = b"".join(outcome.error_lines for outcome in page.waiting)
        digest = self._errors_digest.copy()
        digest.update(error_lines)
        safe = {
            "out_bytes": self._lines.write_at(page.sidecar.out_bytes, lines),
            "errors_bytes": self._errors.write_at(page.sidecar.errors_bytes, error_lines),
            "errors_digest": digest.hexdigest(),
            "is_complete": is_complete,
            **_sums(page),
            **more,
        }
        self._turn_to(page.sidecar.model_copy(update=safe))
        self._errors_digest = digest
        self._commit_at = time.monotonic() + COMMIT_PERIOD_SECONDS
        return [job_id for outcome in page.waiting for job_id in outcome.job_ids]

    def _turn_to(self, sidecar: Sidecar) -> None:
        """Make it the truth, on disk and here."""
        state.save(self._out, sidecar)
        self._page = Page(sidecar)


def _sums(page: Page) -> dict[str, Any]:
    """Positions and tally of the sidecar with what waits."""
    done, tally = list(page.sidecar.done), page.sidecar.tally.model_copy(deep=True)
    for outcome in page.waiting:
        done = state.with_span(done, (outcome.start, outcome.stop))
        tally.add(outcome.tally)
    return {"done": done, "tally": tally}


def retry_path(out: Path, round_number: int) -> Path:
    """The errors that a round reads again."""
    return out.with_name(f"{out.name}.errors.round{round_number}.jsonl")


def gathered_path(out: Path) -> Path:
    """Where lines are gathered for an output that cannot be appended to."""
    return out.with_name(f"{out.name}.rerankq.lines.jsonl")


def written_paths(out: Path) -> list[Path]:
    """Every file that a run of this output may write, empty or remove."""
    leftovers = out.parent.glob(f"{escape(out.name)}.errors.round*.jsonl")
    unfinished = (path.with_name(f"{path.name}.unfinished") for path in (out, state.sidecar_path(out)))
    return [out, gathered_path(out), errors_path(out), state.sidecar_path(out), *leftovers, *unfinished]


def refuse_foreign(out: Path) -> None:
    """Refuse to touch files that no run began; the first is named."""
    if state.is_there(out):
        return
    for path in written_paths(out):
        if path.exists() and (not path.is_file() or path.stat().st_size):
            raise InvalidRequest(
                f"{path} is there already and was not begun by `rerankq bulk`; choose another OUT, "
                "or say --restart --overwrite to lose it",
                {"field": "output"},
            )


def refuse_changed_output(lines_path: Path, whole: Path, sidecar: Sidecar) -> None:
    """Refuse to call done what is not there any more: an output that is gone, or shorter than it was, or its errors."""
    refuse_no_errors(whole, sidecar)
    path, expected = lines_path, sidecar.out_bytes
    if sidecar.whole_bytes is not None and (whole.exists() or not lines_path.exists()):
        path, expected = whole, sidecar.whole_bytes
    length = path.stat().st_size if path.exists() else None
    if (length or 0) < expected:
        raise changed(path, expected, length)


def refuse_no_errors(out: Path, sidecar: Sidecar) -> None:
    """Refuse to count rows as failed that are in no file any more."""
    if sidecar.tally.failed and not errors_path(out).exists():
        raise changed(errors_path(out), sidecar.errors_bytes, None)


def changed(path: Path, expected_bytes: int, got_bytes: int | None) -> InvalidRequest:
    """A file of the run's own is not as it was left."""
    got = "it is gone" if got_bytes is None else f"got {got_bytes:,}"
    return InvalidRequest(
        f"expected {path} to have at least {expected_bytes:,} bytes, {got}; it was changed since; "
        "--restart begins anew",
        {"field": "output"},
    )


def clear_away(out: Path, lines_path: Path, *, is_held: bool = False) -> None:
    """Forget an earlier run, unless it is still going on; the output itself is emptied by the next one.

    Args:
        is_held: it is our own, and has come to nothing.
    """
    if lines_path.exists() and not is_held:
        AppendedFile(lines_path, None).close()
    for path in written_paths(out):
        if path != out:
            path.unlink(missing_ok=True)


def _digest_of(path: Path, length: int | None, expected: str | None) -> Any:
    """A digest of a file's first bytes, to be added to; refused where it is not the one that was expected."""
    digest = blake2b()
    if length:
        with path.open("rb") if path.exists() else BytesIO() as file:
            while length and (part := file.read(min(length, 1 << 20))):
                digest.update(part)
                length -= len(part)
        if expected is not None and digest.hexdigest() != expected:
            raise InvalidRequest(
                f"{path} was changed before the run is through; put it back as it was and finish the run: "
                "--retry-errors reads it then as you have mended it",
                {"field": "output"},
            )
    return digest


def _write_fully(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
