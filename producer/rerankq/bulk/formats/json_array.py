"""Rows of JSON, one a line, or spread over lines as they like, in an array or one after another: a stream of lines.

Knows brackets and strings. What an element says is for whoever reads it, so that a broken one costs itself alone.
"""

import re
from collections.abc import Iterator
from typing import IO, Any

CHUNK_BYTES = 1 << 18
LONGEST_ELEMENT_BYTES = 100_000_000  # one that is not closed must not read a whole file into memory
_BLANK = b" \t\r\n"
# A string, or a sign outside of one; a quote by itself begins a string that goes on in the next chunk.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
_PRETTY = re.compile(rb'\{[ \t\r]*\n[ \t\r\n]*["}]')  # no line of JSON lines is a bracket alone, before a key
_LINE_BREAK = re.compile(rb"[ \t\r\n]*[\r\n][ \t\r\n]*")
_OPENING, _CLOSING, _ENDING = b"[{", b"]}", b",]"


def is_spread(head: bytes) -> bool:
    """Whether brackets rather than the ends of lines part the rows: an array, or objects that are printed prettily."""
    return head.startswith(b"[") or _PRETTY.match(head) is not None


def rows_of(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, without their ends; of an array its elements, each as a line, as are objects that
    take several. With their numbers, from 1.

    Raises:
        EOFError, ValueError: the array does not end, or something stands behind its end.
    """
    reader: Any = stream
    skipped = 0
    while (head := reader.peek(1)) and (blank := len(head) - len(head.lstrip(_BLANK))):
        skipped += reader.read(blank).count(b"\n")
    if is_spread(head):
        yield from enumerate(_elements(reader, is_array=head.startswith(b"[")), start=1)
        return
    for number, line in enumerate(stream, start=skipped + 1):
        stripped = line.strip(_BLANK)
        if stripped:
            yield number, stripped


def _elements(stream: Any, *, is_array: bool) -> Iterator[bytes]:
    values = _Values(is_array=is_array)
    while chunk := stream.read1(CHUNK_BYTES):
        for element in values.split(chunk):
            if element:
                yield element
    values.refuse_open()


class _Values:
    """What has been read of an array, or of objects one after another, and not been given out: a value's beginning."""

    def __init__(self, *, is_array: bool) -> None:
        self._buffer = bytearray()
        self._seen = 0  # bytes of it that need no second look
        self._depth = 0
        self._outside = int(is_array)  # the depth between the values
        self._given = 0
        self._is_closed = False

    def split(self, chunk: bytes) -> list[bytes]:
        """The values that end in this chunk."""
        goes_on = self._seen < len(self._buffer) and b'"' not in chunk  # the string that began before
        self._buffer += chunk
        found: list[bytes] = []
        start, seen = 0, self._seen if goes_on else len(self._buffer)
        for token in () if self._is_closed or goes_on else _TOKEN.finditer(self._buffer, self._seen):
            end, sign = token.end(), self._buffer[token.start()]
            if token[0] == b'"':
                seen = token.start()
                break
            if sign in _OPENING:
                self._depth += 1
                start = end if self._depth == 1 == self._outside else start
            elif self._depth > self._outside:
                self._depth -= sign in _CLOSING
                if self._depth == 0:
                    found.append(_as_line(self._buffer[start:end]))
                    start = end
            elif self._outside and sign in _ENDING:
                found.append(_as_line(self._buffer[start : token.start()]))
                start, self._is_closed = end, sign in _CLOSING
                if self._is_closed:
                    break
        self._given += len(found)
        self._keep(start, seen)
        return found

    def refuse_open(self) -> None:
        """
        Raises:
            EOFError: the array was not closed, or its last value.
        """
        if not self._is_closed and (self._outside or self._buffer.strip(_BLANK)):
            raise EOFError(f"{self._what} is cut off in its element {self._given + 1}")

    @property
    def _what(self) -> str:
        return "the array" if self._outside else "the row of objects"

    def _keep(self, start: int, seen: int) -> None:
        """Forget what was given out."""
        if self._is_closed and self._buffer[start:].strip(_BLANK):
            raise ValueError(f"something stands behind the array's end, after {self._given} elements")
        self._seen = seen - start
        del self._buffer[:start]
        if len(self._buffer) > LONGEST_ELEMENT_BYTES:
            raise ValueError(f"{self._what}'s element {self._given + 1} does not end within 100 MB")


def _as_line(element: bytearray) -> bytes:
    line = bytes(element.strip(_BLANK))
    return _LINE_BREAK.sub(b" ", line) if b"\n" in line or b"\r" in line else line
