"""An input, one file or several, as bytes that know how far they are read and whether they are the same as last time.

Knows compression, encodings and standard input; no format.
"""

import codecs
import gzip
import hashlib
import io
import os
import re
import stat
import sys
import zlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from pydantic import BaseModel, field_serializer

from rerankq.bulk import STANDARD_STREAM
from rerankq.bulk.formats.json_array import is_spread, rows_of
from rerankq.bulk.formats.names import FieldNames, in_utf8
from rerankq.bulk.formats.remote import InputAway, RemoteFile, is_remote
from rerankq.bulk.formats.shards import files_of
from rerankq.bulk.task import Task
from rerankq.contract.errors import InvalidRequest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

READ_ERRORS: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, zlib.error, zstd.ZstdError)
"""What a broken input raises while it is read: cut off, corrupt, or no text."""

HEAD_BYTES = 65_536  # hashed to tell one input from another
LONGEST_FIRST_LINE_BYTES = 64_000_000  # of a pipe, whose dialect is told from it
COUNTED_BYTES = 16_000_000  # a larger file's rows are not counted beforehand
_BUFFER_BYTES = 1 << 20
_MAGIC_BYTES = 16
_UNPACKED = "unpack it into a pipe, `%s`, and name `-`"
_NO_TEXT: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P)"), "bzip2", _UNPACKED % "bzip2 -dc"),
    (re.compile(rb"\xfd7zXZ\x00"), "xz", _UNPACKED % "xz -dc"),
    (re.compile(rb"PK(\x03\x04|\x05\x06)"), "a zip archive", "zip://*::%s reads it; a spreadsheet is saved as CSV"),
    (re.compile(rb"\x1f\x8b"), "gzip within gzip or zstd", _UNPACKED % "gzip -dc"),
    (re.compile(rb"PAR1"), "Parquet", "--format parquet reads rows of it"),
    (re.compile(rb"ARROW1|FEA1"), "Arrow", "--format arrow reads rows of it"),
)  # fmt: skip
"""What begins so, what that is, and what is to be done."""
_MARKS: Mapping[bytes, str] = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",  # begins as the mark of UTF-16 does
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class Identity(BaseModel):
    """What tells an input from another: its content."""

    path: str
    size: int | None
    mtime_ns: int | None
    """The same time is taken for the same content; another is looked into."""
    head_sha256: str
    sha256: str | None = None
    """Of the whole file; None for a pipe, behind a scheme, and in a sidecar of before."""
    version: str | None = None
    """What a remote file's driver tells of it: its ETag, or the time of its last change."""

    @field_serializer("path")
    def _in_utf8(self, path: str) -> str:
        return in_utf8(path)

    def difference(self, other: "Identity") -> str | None:
        """What changed, in words; None when it is the same content (moved, touched or copied)."""
        if self.size is None or other.size is None:
            return "a pipe cannot be compared with what was read before"
        if self.head_sha256 != other.head_sha256:
            return "its beginning differs"
        if self.size != other.size:
            return f"it had {self.size} bytes and has {other.size}"
        if (self.mtime_ns, self.version) == (other.mtime_ns, other.version) or (
            self.sha256 is not None and self.sha256 == _sha256(InputFile(other.path))
        ):
            return None
        return "its content was changed since"


class InputFile:
    """One file of an input. It can be read several times; a pipe (`-`, /dev/stdin, <(...)) once."""

    def __init__(self, path: str, encoding: str = "utf-8") -> None:
        self.path = path
        self._encoding = encoding
        self._pipe: _Pipe | None = None
        self._file: _LocalFile | RemoteFile | None = None
        self._raw: io.RawIOBase | None = None
        try:
            self._find()
        except OSError as error:
            raise InvalidRequest(f"{path} cannot be read: {error}", {"field": "input"}) from error

    @property
    def is_pipe(self) -> bool:
        """Whether it can be read only once."""
        return self._pipe is not None

    @property
    def size(self) -> int | None:
        """In bytes, where that is known."""
        return None if self._file is None else self._file.size

    @property
    def bytes_read(self) -> int:
        """By whoever has it open."""
        return 0 if self._raw is None or self._raw.closed else self._raw.tell()

    def identity(self, *, is_whole: bool = False) -> Identity:
        """As of when it was found.

        Args:
            is_whole: with the digest of all of it, which takes a read; not of a remote file.
        """
        head = self._head()
        file = self._file
        return Identity(
            path=self.path if file is None else file.name,
            size=self.size,
            mtime_ns=None if file is None else file.mtime_ns,
            head_sha256=hashlib.sha256(head).hexdigest(),
            sha256=_sha256(self) if is_whole and isinstance(file, _LocalFile) else None,
            version=None if file is None else file.version,
        )

    def open(self) -> io.BufferedReader:
        """Its bytes as they lie there."""
        raw = self._pipe.open() if self._pipe is not None else self._opened()
        self._raw = raw
        return io.BufferedReader(raw, _BUFFER_BYTES)

    @contextmanager
    def stream(self) -> Generator[IO[bytes]]:
        """Its bytes from the beginning, decompressed, as UTF-8 without a mark of byte order."""
        with self.open() as raw, _decompressed(raw) as stream:
            text = _buffered(stream)
            self._refuse_no_text(text.peek(_MAGIC_BYTES)[:_MAGIC_BYTES])
            yield _as_utf8(text, self._encoding)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Its lines that are not blank, without their ends, with their numbers from 1; of a JSON array its elements."""
        with self.stream() as stream:
            yield from rows_of(stream)

    def first_line(self) -> bytes | None:
        """The first line that is not blank; None where that is not to be had, whoever reads on will say so."""
        try:
            if self._pipe is not None:
                return self._first_of_pipe()
            return next((line for _, line in self.lines()), None)
        except READ_ERRORS:
            return None

    def _refuse_no_text(self, head: bytes) -> None:
        for begins, what, way_out in _NO_TEXT:
            if begins.match(head):
                told = way_out % self.path if "%s" in way_out else way_out
                raise InvalidRequest(f"expected text in {self.path}, got {what}; {told}", {"field": "input"})

    def _find(self) -> None:
        path = self.path
        if path == STANDARD_STREAM:
            self._pipe = _Pipe(_standard_input())
        elif is_remote(path):
            self._file = RemoteFile(path)
        elif not Path(path).exists() or Path(path).is_dir():
            raise InvalidRequest(f"there is no file {path}", {"field": "input"})
        elif Path(path).is_file():
            self._file = _LocalFile(path)
        else:
            # Held for as long as the process: it is read once, by whoever asks, to its end or not at all.
            self._pipe = _Pipe(open(os.open(path, os.O_RDONLY), "rb", closefd=False))  # noqa: SIM115 - held, see above

    def _first_of_pipe(self) -> bytes | None:
        """Of its head, which grows until it holds a line."""
        size = HEAD_BYTES
        while (line := self._whole_line(size)) is None and size <= LONGEST_FIRST_LINE_BYTES:
            size *= 2
        return line

    def _whole_line(self, size: int) -> bytes | None:
        """A line of a pipe's first bytes; an empty one when there is none to come."""
        pipe = cast(_Pipe, self._pipe)
        beginning = io.BufferedReader(io.BytesIO(pipe.head(size)))
        with suppress(*READ_ERRORS), _decompressed(beginning) as head:  # cut off within
            text = _as_utf8(head, self._encoding)
            tells_its_end = is_spread(text.peek(1).lstrip())
            _, line = next(rows_of(text), (0, b""))
            if tells_its_end or pipe.is_ended or text.peek(1):
                return line
        return b"" if pipe.is_ended else None

    def _head(self) -> bytes:
        if self._pipe is not None:
            return self._pipe.head(HEAD_BYTES)
        with io.BufferedReader(self._opened(), HEAD_BYTES) as file:
            return file.read(HEAD_BYTES)

    def _opened(self) -> io.RawIOBase:
        if self._file is None:
            raise RuntimeError("This is a bug: a pipe is opened as a file")
        try:
            return self._file.open()
        except OSError as error:
            raise unreadable(self.path, error) from error


class Input:
    """One input: a file, a pipe, or several files whose rows follow each other."""

    def __init__(self, path: str, encoding: str = "utf-8") -> None:
        self.path = path
        """As it was named."""
        known = _known_encoding(encoding)
        self.parts = [InputFile(name, known) for name in files_of(path)]
        self.line = 0
        """The number of the line that was read last, in its file."""
        self._turn = 0
        sizes = [part.size for part in self.parts]
        self._sizes = [size for size in sizes if size is not None]
        self._is_sized = len(self._sizes) == len(sizes) and sum(self._sizes) > 0

    @property
    def is_pipe(self) -> bool:
        """Whether it can be read only once."""
        return any(part.is_pipe for part in self.parts)

    @property
    def at(self) -> InputFile:
        """What is being read."""
        return self.parts[self._turn]

    @property
    def place(self) -> dict[str, Any]:
        """File of what was read last, and its line where it is one; nothing where there is one file."""
        if len(self.parts) == 1:
            return {}
        file = {"file": in_utf8(self.at.path)}
        return {**file, "line": self.line} if self.line else file

    def identities(self, *, is_whole: bool = False) -> list[Identity]:
        """Of each of its files, as of when it was found."""
        return [part.identity(is_whole=is_whole) for part in self.parts]

    def in_turn(self) -> Iterator[InputFile]:
        """Its files one after another, for whoever cannot read them as one: each has a header of its own."""
        for turn, part in enumerate(self.parts):
            self._turn = turn
            yield part

    def lines(self) -> Iterator[bytes]:
        """The lines of all its files that are not blank, without their ends."""
        for part in self.in_turn():
            for self.line, line in part.lines():
                yield line

    def first_line(self) -> bytes | None:
        """The first line that is not blank."""
        return next((line for part in self.parts if (line := part.first_line())), None)

    def lines_if_small(self) -> int | None:
        """How many lines that are not blank it has; None where counting would take long."""
        if (
            not self._is_sized
            or sum(self._sizes) > COUNTED_BYTES
            or any(is_remote(part.path) for part in self.parts)
        ):
            return None
        try:
            return sum(1 for part in self.parts for _ in part.lines())
        except READ_ERRORS:
            return None

    def fraction_read(self) -> float | None:
        """How much of it has been read, 0..1; None when that cannot be told."""
        if not self._is_sized:
            return None
        return min((sum(self._sizes[: self._turn]) + self.at.bytes_read) / sum(self._sizes), 1.0)


@dataclass(frozen=True, slots=True)
class Given:
    """What a reader is given: an input, what its fields are called, and the task that it is a part of."""

    input: Input
    names: FieldNames
    task: Task


class _LocalFile:
    """A file of this machine."""

    version = None

    def __init__(self, path: str) -> None:
        state = Path(path).stat()
        self.name = path
        self.size: int | None = state.st_size
        self.mtime_ns = state.st_mtime_ns

    def open(self) -> io.RawIOBase:
        """Its bytes."""
        return io.FileIO(self.name)


class _Pipe:
    """A stream that can be read once, and its beginning before that."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream: Any = stream
        self._head = b""
        self.is_ended = False

    def head(self, size: int) -> bytes:
        """Its first bytes, or all where it has fewer."""
        while len(self._head) < size and not self.is_ended:
            more = self._stream.read(size - len(self._head))
            self._head += more
            self.is_ended = not more
        return self._head[:size]

    def open(self) -> io.RawIOBase:
        """All of it; of what was read of it already only the head is kept."""
        self.head(HEAD_BYTES)
        head, self._head = self._head, self._head[:HEAD_BYTES]
        return _Rewound(head, self._stream)


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
    buffered = _buffered(stream)
    head = buffered.peek(_MAGIC_BYTES)
    mark = next((mark for mark in _MARKS if head.startswith(mark)), b"")
    if mark == codecs.BOM_UTF8:
        buffered.read(len(mark))
    elif mark:
        encoding = _MARKS[mark]
    if encoding == "utf-8":
        return buffered
    return io.BufferedReader(_Utf8(io.TextIOWrapper(buffered, encoding, newline="")), _BUFFER_BYTES)


def _buffered(stream: Any) -> Any:
    return stream if hasattr(stream, "peek") else io.BufferedReader(stream, _BUFFER_BYTES)


def unreadable(path: str, error: Exception, after_rows: int = 0) -> InvalidRequest:
    """What is to be said of an input that was found and then cannot be read."""
    if isinstance(error, FileNotFoundError):
        return InputAway(
            f"the input {path} was there when the run began and is gone; put it back", {"field": "input"}
        )
    after = f" after {after_rows:,} rows" if after_rows else ""
    kind = InputAway if isinstance(error, OSError) and error.errno is not None else InvalidRequest
    way_out = "; --encoding names the one that it is in" if isinstance(error, UnicodeError) else ""
    return kind(f"{path} cannot be read{after}: {type(error).__name__}: {error}{way_out}", {"field": "input"})


def _standard_input() -> IO[bytes]:
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - so Python has it when it is closed
        raise InvalidRequest("standard input is closed; name a file", {"field": "input"})
    return sys.stdin.buffer


def _known_encoding(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError as error:
        raise InvalidRequest(
            f"there is no encoding {name}; utf-8, utf-16, gbk, big5, latin-1 are usual ones",
            {"field": "encoding"},
        ) from error


def _sha256(part: InputFile) -> str:
    try:
        with part.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(part.path, error) from error


def _decompressed(raw: Any) -> Any:
    head = raw.peek(4)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw, mode="rb")
    return zstd.ZstdFile(raw) if head.startswith(b"\x28\xb5\x2f\xfd") else raw


def is_same_file(read: str, written: Path) -> bool:
    """Whether what is read is the file that is written, whatever it is called; `-` is what stands behind it."""
    try:
        state = os.fstat(sys.stdin.fileno()) if read == STANDARD_STREAM else Path(read).stat()
        is_file = not stat.S_ISCHR(state.st_mode)  # a terminal is not used up by being written to
        return is_file and os.path.samestat(state, written.stat())
    except (
        OSError,
        ValueError,
        AttributeError,
    ):  # one is not there; then they are the same only by their place
        return read != STANDARD_STREAM and Path(read).resolve() == written.resolve()
