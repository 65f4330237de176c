"""An input as a stream of bytes that knows how far it is read and whether it is the same as last time.

Knows compression and standard input; no format.
"""

import codecs
import gzip
import hashlib
import io
import os
import sys
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from rerankq.bulk import STANDARD_STREAM
from rerankq.bulk.formats.names import FieldNames
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
    """What tells an input from another: its content."""

    path: str
    size: int | None
    mtime_ns: int | None
    """The same time is taken for the same content; another is looked into."""
    head_sha256: str
    sha256: str | None = None
    """Of the whole file; None for a pipe, and in a sidecar of before."""

    def difference(self, other: "Identity") -> str | None:
        """What changed, in words; None when it is the same content (moved, touched or copied)."""
        if self.size is None or other.size is None:
            return "a pipe cannot be compared with what was read before"
        if self.head_sha256 != other.head_sha256:
            return "its beginning differs"
        if self.size != other.size:
            return f"it had {self.size} bytes and has {other.size}"
        if self.mtime_ns == other.mtime_ns or (
            self.sha256 is not None and self.sha256 == _sha256(other.path)
        ):
            return None
        return "its content was changed since"


class Source:
    """One input. A file can be read several times; a pipe (`-`, /dev/stdin, <(...)) once."""

    def __init__(self, path: str, encoding: str = "utf-8") -> None:
        """
        Raises:
            InvalidRequest: there is no such file, or no such encoding.
        """
        self.path = path
        self.encoding = _known_encoding(encoding)
        self._pipe: IO[bytes] | None = None
        self._counted: io.FileIO | None = None
        if path == STANDARD_STREAM:
            self._pipe = sys.stdin.buffer
        elif not Path(path).exists() or Path(path).is_dir():
            raise InvalidRequest(f"there is no file {path}", {"field": "input"})
        elif not Path(path).is_file():
            # Held for as long as the process: it is read once, by whoever asks, to its end or not at all.
            self._pipe = open(os.open(path, os.O_RDONLY), "rb", closefd=False)  # noqa: SIM115
        if self._pipe is not None:
            self._head = _read_fully(self._pipe, HEAD_BYTES)
        else:
            with Path(path).open("rb") as file:
                self._head = file.read(HEAD_BYTES)

    @property
    def is_pipe(self) -> bool:
        """Whether it can be read only once."""
        return self._pipe is not None

    def identity(self, *, is_whole: bool = False) -> Identity:
        """As of now.

        Args:
            is_whole: with the digest of all of it, which takes a read.
        """
        digest = hashlib.sha256(self._head).hexdigest()
        if self.is_pipe:
            return Identity(path=self.path, size=None, mtime_ns=None, head_sha256=digest)
        state = Path(self.path).stat()
        return Identity(
            path=self.path,
            size=state.st_size,
            mtime_ns=state.st_mtime_ns,
            head_sha256=digest,
            sha256=_sha256(self.path) if is_whole else None,
        )

    @contextmanager
    def stream(self) -> Generator[IO[bytes]]:
        """Its bytes from the beginning, decompressed, as UTF-8 without a mark of byte order."""
        with self._raw() as raw, _decompressed(raw, _magic(self._head)) as stream:
            yield _as_utf8(stream, self.encoding)

    def _raw(self) -> IO[bytes]:
        if self._pipe is not None:
            return io.BufferedReader(_Rewound(self._head, self._pipe), _BUFFER_BYTES)
        self._counted = io.FileIO(self.path)
        return io.BufferedReader(self._counted, _BUFFER_BYTES)

    def lines(self) -> Iterator[bytes]:
        """Its lines that are not blank, without their ends."""
        with self.stream() as stream:
            for line in stream:
                stripped = line.strip(b" \t\r\n")
                if stripped:
                    yield stripped

    def first_line(self) -> bytes | None:
        """The first line that is not blank; of a pipe as far as its head reaches."""
        try:
            if not self.is_pipe:
                return next(self.lines(), None)
            with _decompressed(io.BytesIO(self._head), _magic(self._head)) as head:
                lines = _as_utf8(head, self.encoding)
                return next((line.strip() for line in lines if line.strip()), None)
        except READ_ERRORS:
            return None  # whoever reads on will say so

    def lines_if_small(self) -> int | None:
        """How many lines that are not blank it has; None where counting would take long."""
        if self.is_pipe or Path(self.path).stat().st_size > COUNTED_BYTES:
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
    skips_missing: bool = False
    """Go on without the documents that the corpus of a TREC run lacks."""
    delimiter: str | None = None
    """Between the columns of a table; the format's own when absent."""
    is_quoted: bool | None = None
    """Whether quotes enclose a table's fields; as the format has it when absent."""
    columns: Sequence[str] | None = None
    """Of a table without a header."""


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


class _Utf8(io.RawIOBase):
    """Text of another encoding as UTF-8."""

    def __init__(self, text: io.TextIOBase) -> None:
        self._text = text
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = self._text.read(_BUFFER_BYTES // 4).encode()
        data, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _as_utf8(stream: Any, encoding: str) -> Any:
    buffered = stream if hasattr(stream, "peek") else io.BufferedReader(stream, _BUFFER_BYTES)
    mark = buffered.peek(4)[:4]
    if mark.startswith(codecs.BOM_UTF8):
        buffered.read(len(codecs.BOM_UTF8))
    elif mark.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    if encoding == "utf-8":
        return buffered
    return io.BufferedReader(_Utf8(io.TextIOWrapper(buffered, encoding, newline="")), _BUFFER_BYTES)


def _known_encoding(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError as error:
        raise InvalidRequest(
            f"there is no encoding {name}; utf-8, utf-16, gbk, big5, latin-1 are usual ones",
            {"field": "encoding"},
        ) from error


def _sha256(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def is_same_file(read: str, written: Path) -> bool:
    """Whether what is read is the file that is written, whatever it is called; `-` is what stands behind it."""
    try:
        state = os.fstat(sys.stdin.fileno()) if read == STANDARD_STREAM else Path(read).stat()
        return os.path.samestat(state, written.stat())
    except (OSError, ValueError):  # one is not there; then they are the same only by their place
        return read != STANDARD_STREAM and Path(read).resolve() == written.resolve()
