"""An input as a stream of bytes that knows how far it is read and whether it is the same as last time.

Knows compression and standard input; no format.
"""

import gzip
import hashlib
import io
import sys
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from rerankq.bulk import STANDARD_STREAM
from rerankq.bulk.formats.names import FieldNames, compression_of
from rerankq.contract.errors import InvalidRequest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

READ_ERRORS: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, zlib.error, zstd.ZstdError)
"""What a broken input raises while it is read: cut off, corrupt, or no text."""

HEAD_BYTES = 65_536  # hashed to tell one input from another
COUNTED_BYTES = 16_000_000  # a larger file's rows are not counted beforehand
_BUFFER_BYTES = 1 << 20


class Identity(BaseModel):
    """What tells an input from another; the modification time also tells an edit that kept the size."""

    path: str
    size: int | None
    mtime_ns: int | None
    head_sha256: str

    def difference(self, other: "Identity") -> str | None:
        """What changed, in words; None when it is the same input (it may have been moved)."""
        if self.head_sha256 != other.head_sha256:
            return "its beginning differs"
        if self.size != other.size:
            return f"it had {self.size} bytes and has {other.size}"
        return None if self.mtime_ns == other.mtime_ns else "it was modified since"


class Source:
    """One input. Can be read several times unless it is standard input."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._head = b""
        self._counted: io.FileIO | None = None
        if path == STANDARD_STREAM:
            self._head = _read_fully(sys.stdin.buffer, HEAD_BYTES)
        elif not Path(path).is_file():
            raise InvalidRequest(f"there is no file {path}", {"field": "input"})

    def identity(self) -> Identity:
        """As of now."""
        if self.path == STANDARD_STREAM:
            digest = hashlib.sha256(self._head).hexdigest()
            return Identity(path=self.path, size=None, mtime_ns=None, head_sha256=digest)
        return identity_of(self.path)

    @contextmanager
    def stream(self) -> Generator[IO[bytes]]:
        """Its bytes from the beginning, decompressed."""
        with self._raw() as raw, _decompressed(raw, self._compression()) as stream:
            yield stream

    def _raw(self) -> IO[bytes]:
        if self.path == STANDARD_STREAM:
            return io.BufferedReader(_Rewound(self._head, sys.stdin.buffer), _BUFFER_BYTES)
        self._counted = io.FileIO(self.path)
        return io.BufferedReader(self._counted, _BUFFER_BYTES)

    def _compression(self) -> str | None:
        return _magic(self._head) if self.path == STANDARD_STREAM else compression_of(self.path)

    def lines(self) -> Iterator[bytes]:
        """Its lines that are not blank, without their ends."""
        with self.stream() as stream:
            for line in stream:
                stripped = line.strip(b" \t\r\n")
                if stripped:
                    yield stripped

    def first_line(self) -> bytes | None:
        """The first line that is not blank, as far as the head of standard input reaches."""
        if self.path == STANDARD_STREAM:
            return next((line for line in self._head.splitlines() if line.strip()), None)
        try:
            return next(self.lines(), None)
        except READ_ERRORS:
            return None  # whoever reads on will say so

    def lines_if_small(self) -> int | None:
        """How many lines that are not blank it has; None where counting would take long."""
        if self.path == STANDARD_STREAM or Path(self.path).stat().st_size > COUNTED_BYTES:
            return None
        try:
            return sum(1 for _ in self.lines())
        except READ_ERRORS:
            return None

    def fraction_read(self) -> float | None:
        """How much of it has been read, 0..1; None when that cannot be told."""
        if self._counted is None or self._counted.closed:
            return None
        size = Path(self.path).stat().st_size
        return min(self._counted.tell() / size, 1.0) if size else None


@dataclass(frozen=True, slots=True)
class Given:
    """What a reader is given: the input, what its fields are called, and what belongs to a TREC run."""

    source: Source
    names: FieldNames
    queries: str | None = None
    corpus: str | None = None
    depth: int | None = None
    """Candidates per query of a TREC run; all when absent."""


def identity_of(path: str) -> Identity:
    """What tells this file from another."""
    with Path(path).open("rb") as file:
        digest = hashlib.sha256(file.read(HEAD_BYTES)).hexdigest()
    state = Path(path).stat()
    return Identity(path=path, size=state.st_size, mtime_ns=state.st_mtime_ns, head_sha256=digest)


class _Rewound(io.RawIOBase):
    """A stream that gives back first what was read of it already."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = memoryview(head)
        self._rest: Any = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._head:
            data = self._rest.read1(len(buffer))
        else:
            data, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _read_fully(stream: IO[bytes], size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = stream.read(size - len(data))
        if not more:
            break
        data += more
    return data


def _magic(head: bytes) -> str | None:
    if head.startswith(b"\x1f\x8b"):
        return "gz"
    return "zst" if head.startswith(b"\x28\xb5\x2f\xfd") else None


def _decompressed(raw: IO[bytes], compression: str | None) -> Any:
    if compression == "gz":
        return gzip.GzipFile(fileobj=raw, mode="rb")
    return zstd.ZstdFile(raw) if compression == "zst" else raw
