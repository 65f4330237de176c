"""Where the documents of a command come from: its arguments, a file, or standard input, one per line."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rerankq.contract.errors import InvalidRequest

STDIN = Path("-")


def read_documents(arguments: Sequence[str], file: Path | None) -> list[str]:
    """The documents, in their order.

    A blank line is a document too, so that a result's index is its line number less one.

    Raises:
        InvalidRequest: there are none, they come from two places, or the file cannot be read as UTF-8.
    """
    if arguments and file is not None:
        raise InvalidRequest("documents: expected arguments or --file, got both", {"field": "documents"})
    if arguments:
        return list(arguments)
    if file is None and sys.stdin.isatty():
        raise InvalidRequest(
            'documents: got none; give them as arguments (`rerankq rerank "query" "one" "two"`), with --file, '
            "or on standard input, one per line",
            {"field": "documents"},
        )
    return _lines(_bytes_of(file or STDIN), "standard input" if file in (None, STDIN) else str(file))


def _bytes_of(file: Path) -> bytes:
    if file == STDIN:
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidRequest(
            f"documents: {file} cannot be read: {error.strerror}", {"field": "documents"}
        ) from error


def _lines(data: bytes, name: str) -> list[str]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidRequest(
            f"documents: expected UTF-8 in {name}, line {line} is not; `iconv -t UTF-8` converts it",
            {"field": "documents"},
        ) from None
    lines = text.split("\n")  # not splitlines(), which also cuts at characters that belong to a text
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]
