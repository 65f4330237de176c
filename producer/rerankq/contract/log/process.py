"""All that a process says, as lines of one log: its records, warnings, uncaught errors, what it prints, its stacks.

Of our own modules as much as was asked for; of libraries what is of INFO and above, for below that they quote what they
handle.
"""

import faulthandler
import io
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from types import FrameType, TracebackType
from typing import Any, Literal, Self

from rerankq.contract.log.lines import LONGEST_LINE_BYTES, LineFormatter, Lines, LogFormat
from rerankq.contract.log.outlet import Outlet

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]
_OURS = ("rerankq", "rerankq_worker")
_STDERR = 2
_MISSING = "{} lines of this log are missing: nobody read it, or its disk was full"

log = logging.getLogger(__name__)


class LineHandler(logging.Handler):
    """Hands records on as lines."""

    def __init__(self, lines: Lines, outlet: Outlet) -> None:
        super().__init__()
        self.lines, self._outlet = lines, outlet
        self._formatter = LineFormatter(lines)

    @classmethod
    def into(cls, descriptor: int, lines: Lines) -> Self:
        """Into a descriptor, in which a line says how many are missing."""
        return cls(
            lines, Outlet(descriptor, lambda missing: lines.line(_MISSING.format(missing), level="WARNING"))
        )

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._formatter.as_line(record)
        except Exception as error:  # noqa: BLE001 - the boundary: a wrong record must not end what it is about
            record.msg, record.args = f"a record could not be written: {type(error).__name__}", None
            record.exc_info = record.exc_text = record.stack_info = None
            vars(record).pop("fields", None)
            line = self._formatter.as_line(record)
        self.pass_on(line)

    def pass_on(self, line: bytes) -> None:
        """Write a line, be it another process's."""
        self.acquire()
        try:
            self._outlet.write(line)
        finally:
            self.release()

    def flush(self) -> None:
        self._outlet.flush()


def speak_as(process: str, style: LogFormat, level: LogLevel, *, prints: bool = True) -> LineHandler:
    """Have this process log to its stderr from now on.

    Args:
        process: its name in each line.
        prints: what is printed is logged, too, but on a terminal.
    """
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison] - with `2>&-` it is
        _take_stderrs_place()
    handler = LineHandler.into(_STDERR, Lines(style, process))
    use(handler, level)
    if prints and not os.isatty(_STDERR):
        sys.stdout, sys.stderr = _Printed("stdout", logging.INFO), _Printed("stderr", logging.WARNING)
    faulthandler.enable(_STDERR)
    return handler


def _take_stderrs_place() -> None:
    """Before a connection gets its number, and with it our lines."""
    while (descriptor := os.open(os.devnull, os.O_WRONLY)) < _STDERR:
        pass
    if descriptor != _STDERR:
        os.close(descriptor)


def use(handler: logging.Handler, level: LogLevel) -> None:
    """Have all records, warnings and uncaught errors go to this handler alone."""
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.getLevelNamesMapping()[level], logging.INFO))
    for name in _OURS:
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)  # done once: whoever asks for it later leaves ours in place
    warnings.showwarning = _show_warning
    sys.excepthook = _note_uncaught
    threading.excepthook = _note_uncaught_in_thread
    sys.unraisablehook = _note_unraisable


def tell_stacks_on(number: signal.Signals) -> None:
    """Write each thread's stack, without the values in it, when this signal comes; nothing else happens."""
    signal.signal(number, lambda _, frame: tell_stacks(frame))


def tell_stacks(here: FrameType | None) -> None:
    """Write each thread's stack now.

    Args:
        here: where this thread was interrupted.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, top in sys._current_frames().items():  # pyright: ignore[reportPrivateUsage] - the documented way
        shown = here if ident == threading.get_ident() and here is not None else top
        stack = "".join(traceback.format_list(traceback.extract_stack(shown)))
        told = {"pid": os.getpid(), "thread": names.get(ident, str(ident))}
        record = log.makeRecord(log.name, logging.WARNING, __file__, 0, "stack of a thread", (), None)
        record.fields, record.exc_text = told, stack
        log.handle(record)


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any
) -> None:
    logging.getLogger("py.warnings").warning("%s: %s (%s:%d)", category.__name__, message, filename, lineno)


def _note_uncaught(
    kind: type[BaseException], error: BaseException, where: TracebackType | None, *, thread: str = ""
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("uncaught %s%s", kind.__name__, thread, exc_info=(kind, error, where))


def _note_uncaught_in_thread(told: "threading.ExceptHookArgs") -> None:
    if told.exc_value is not None and not isinstance(told.exc_value, SystemExit):
        thread = f" in thread {told.thread.name}" if told.thread else ""
        _note_uncaught(told.exc_type, told.exc_value, told.exc_traceback, thread=thread)


def _note_unraisable(told: "sys.UnraisableHookArgs") -> None:
    where = getattr(told.object, "__qualname__", type(told.object).__name__)
    log.error("ignored %s in %s", told.exc_type.__name__, where)


class _Printed(io.TextIOBase):
    """In the place of stdout or stderr: what a library prints, a record each time."""

    def __init__(self, name: str, level: int) -> None:
        super().__init__()
        self._log, self._level = logging.getLogger(f"rerankq.{name}"), level
        self._begun = threading.local()

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] - typeshed has it assignable
        return "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return _STDERR

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        told = getattr(self._begun, "text", "") + text
        is_whole = told.endswith("\n") or len(told) > LONGEST_LINE_BYTES
        self._begun.text = "" if is_whole else told.rpartition("\r")[2]  # of a bar drawn anew, the last
        if is_whole and told.strip():
            self._log.log(self._level, "%s", told.strip("\r\n"))
        return len(text)
