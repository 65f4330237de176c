"""A record as one line, in text or in JSON: control characters escaped, passwords of URLs masked, never too long.

Knows neither where lines go nor who writes them.
"""

import logging
import re
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import orjson

LogFormat = Literal["text", "json"]

LONGEST_LINE_BYTES = 4096  # PIPE_BUF: what Linux takes into a pipe in one piece, however many write to it
_SHORTENED = (3500, 2500, 1200, 600, 200, 60, 10)  # characters of each part of a long line, until it fits
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROLS_IN_JSON = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]")  # that JSON leaves as they are
_SPACED = re.compile(r"[\s\"=\\]|^$")
# Up to the last @: one in a password need not be written %40.
_PASSWORD = re.compile(r"(://[^\s:/@]*:)\S*(?=@)")
_LONE_NAME = re.compile(r"(://)[^\s:/@]+(?=@)")  # a token, as some services have it
_CUT_URL = re.compile(r"://[^\s@]*\Z")  # its password may have an end that was cut off
_CUT_WORD = re.compile(r"\A\S*")
_TIME = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
_BEGINNINGS: Mapping[LogFormat, re.Pattern[bytes]] = {
    "json": re.compile(rb'\{"time":"' + _TIME + rb'","level":"'),
    "text": re.compile(_TIME + rb" [A-Z]+ "),
}


class Lines:
    """How one process writes its lines."""

    def __init__(self, style: LogFormat, process: str) -> None:
        self._write = _as_json if style == "json" else _as_text
        self._beginning = _BEGINNINGS[style]
        self._process = process

    def line(
        self,
        message: str,
        *,
        level: str = "INFO",
        logger: str = "rerankq",
        fields: Mapping[str, Any] | None = None,
        exc: str | None = None,
        at: float | None = None,
        process: str | None = None,
    ) -> bytes:
        """The line, its end included.

        Args:
            fields: what a program that reads it looks for; None is left out.
            exc: a traceback, or stacks.
            at: Unix seconds; now when absent.
            process: another's name than one's own.
        """
        head = {
            "time": _utc(time.time() if at is None else at),
            "level": level,
            "logger": logger,
            "process": process or self._process,
        }
        kept = {name: value for name, value in (fields or {}).items() if value is not None}
        message = without_passwords(_beginning_of(message))
        exc = None if exc is None else without_passwords(_end_of(exc))
        line = self._write(head, message, kept, exc)
        for room in _SHORTENED:
            if len(line) <= LONGEST_LINE_BYTES:
                break
            line = self._write(head, *_shortened(message, kept, exc, room))
        return line

    def begins_in(self, raw: bytes) -> int | None:
        """Where in what a process wrote such a line begins; None where there is none."""
        found = self._beginning.search(raw)
        return None if found is None else found.start()


class LineFormatter(logging.Formatter):
    """Records of Python's logging as such lines; `extra={"fields": {…}}` are fields."""

    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self._lines = lines

    def as_line(self, record: logging.LogRecord) -> bytes:
        """Its bytes."""
        exc = record.exc_text or (self.formatException(record.exc_info) if record.exc_info else None)
        return self._lines.line(
            record.getMessage(),
            level=record.levelname,
            logger=record.name,
            fields=getattr(record, "fields", None),
            exc=exc or record.stack_info,
            at=record.created,
        )

    def format(self, record: logging.LogRecord) -> str:
        return self.as_line(record).decode().removesuffix("\n")


def _shortened(
    message: str, fields: Mapping[str, Any], exc: str | None, room: int
) -> tuple[str, dict[str, Any], str | None]:
    """Each with so many characters at most; of a traceback the end, which says what was raised."""
    return (
        message if len(message) <= room else f"{message[:room]}…",
        {
            name: value if isinstance(value, int | float) else str(value)[:room]
            for name, value in fields.items()
        },
        exc if exc is None or len(exc) <= room else f"…{exc[-room:]}",
    )


def without_passwords(text: str) -> str:
    """A text in which URLs show neither password nor token."""
    if "://" not in text or "@" not in text:
        return text
    return _LONE_NAME.sub(r"\1***", _PASSWORD.sub(r"\1***", text))


def _beginning_of(text: str) -> str:
    """As much as a line may hold; looking for passwords takes the square of what one word holds."""
    return text if len(text) <= LONGEST_LINE_BYTES else _CUT_URL.sub("", text[:LONGEST_LINE_BYTES]) + "…"


def _end_of(text: str) -> str:
    return text if len(text) <= LONGEST_LINE_BYTES else _CUT_WORD.sub("…", text[-LONGEST_LINE_BYTES:])


def _as_json(head: Mapping[str, str], message: str, fields: Mapping[str, Any], exc: str | None) -> bytes:
    shown = {**head, "message": message, **{_free(name): value for name, value in fields.items()}}
    if exc is not None:
        shown["exc"] = exc
    try:
        line = orjson.dumps(shown, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # a lone surrogate, an integer beyond 64 bits
        printable = {name: str(value).encode(errors="replace").decode() for name, value in shown.items()}
        line = orjson.dumps(printable, option=orjson.OPT_APPEND_NEWLINE)
    return _CONTROLS_IN_JSON.sub(lambda found: b"\\u%04x" % ord(found.group().decode()), line)


def _free(name: str) -> str:
    return f"{name}_" if name in {"time", "level", "logger", "process", "message", "exc"} else name


def _as_text(head: Mapping[str, str], message: str, fields: Mapping[str, Any], exc: str | None) -> bytes:
    told = " ".join([message, *(f"{name}={_quoted(value)}" for name, value in fields.items())])
    told = told if exc is None else f"{told} | {exc.strip()}"
    line = f"{head['time']} {head['level']} {head['process']}: {told.strip()}"
    return in_one_line(line).encode(errors="replace") + b"\n"


def in_one_line(text: str) -> str:
    """A text that neither ends a line nor moves a terminal's cursor."""
    return _CONTROLS.sub(_escaped, text) if _CONTROLS.search(text) else text


def _escaped(found: re.Match[str]) -> str:
    return found.group().encode("unicode_escape").decode()


def _quoted(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return orjson.dumps(text.encode(errors="replace").decode()).decode() if _SPACED.search(text) else text


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _utc(at: float) -> str:
    return f"{_second(int(at))}.{int(at % 1 * 1000):03d}Z"
