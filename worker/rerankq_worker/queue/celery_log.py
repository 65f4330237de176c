"""Celery's own log among ours: in our lines, without what the line of a job tells already, and without any text.

Celery prints its banner, its shutdown and its stacks past every log, and waits for whoever reads them: here they are
records as any.
"""

import logging
import os
import re
import signal
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

import redis
from billiard import util as billiard_util
from celery.apps import worker as celery_worker
from celery.signals import setup_logging
from kombu.exceptions import OperationalError

from rerankq.contract.errors import RerankError
from rerankq.contract.log import process
from rerankq.contract.log.lines import Lines
from rerankq_worker.settings import WorkerSettings

CHILDS_STACKS = signal.SIGUSR2  # SIGUSR1 is its soft time limit

_ENDS = ("Hard time limit", "Soft time limit", "Discarding revoked task", "Task handler raised error")

_LIBRARIES = ("celery", "kombu", "billiard", "multiprocessing")
_OF_CONNECTIONS = (OSError, redis.ConnectionError, redis.TimeoutError, OperationalError, RerankError)
_KIND = re.compile(r"outside body: (\w+)")
_FRAME = re.compile(r'^  File ".*$', re.MULTILINE)

log = logging.getLogger(__name__)


def take_over_log(worker: Any, settings: WorkerSettings) -> None:
    """For the whole process, a Celery worker that is about to begin.

    Args:
        worker: Celery's.
    """
    name = f"worker {worker.hostname.partition('@')[0]}"

    process.speak_as(name, settings.log, settings.log_level).addFilter(_name_errors_only)

    def set_up(logfile: str | None, **_: object) -> None:
        pool_log = billiard_util.get_logger()  # not before: Celery has it made anew
        pool_log.propagate = True
        pool_log.setLevel(logging.ERROR)
        if logfile:
            handler = _opened_or_exit(logfile, Lines(settings.log, name))
            handler.addFilter(_name_errors_only)
            process.use(handler, settings.log_level)

    setup_logging.connect(set_up, weak=False)
    worker.quiet = True
    celery_worker.safe_say = _say  # pyright: ignore[reportAttributeAccessIssue]
    celery_worker.install_cry_handler = lambda: _tell_stacks_of(worker)  # pyright: ignore[reportAttributeAccessIssue]
    # Children take it over: without a handler the signal would end them.
    process.tell_stacks_on(CHILDS_STACKS)
    _hush_celery()


class FileHandler(process.LineHandler):
    """Of `--logfile`: nobody is stopped by its disk, and where the file was moved away it is made anew."""

    _path = Path()
    _descriptor = -1

    @classmethod
    def at(cls, path: str, lines: Lines) -> Self:
        """
        Raises:
            OSError: it cannot be written.
        """
        descriptor = _open(path)
        handler = cls.into(descriptor, lines)
        handler._path, handler._descriptor = Path(path).absolute(), descriptor
        return handler

    def pass_on(self, line: bytes) -> None:
        with suppress(OSError):  # it goes where the last one went
            self._follow()
        super().pass_on(line)

    def _follow(self) -> None:
        try:
            if os.path.samestat(self._path.stat(), os.fstat(self._descriptor)):
                return
        except FileNotFoundError:
            pass
        anew = _open(self._path)
        os.dup2(anew, self._descriptor, inheritable=False)
        os.close(anew)


def _open(path: str | Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)


def _opened_or_exit(path: str, lines: Lines) -> FileHandler:
    try:
        return FileHandler.at(path, lines)
    except OSError as error:
        log.critical("--logfile: cannot write to %s: %s", path, error.strerror)
        raise SystemExit(os.EX_CONFIG) from None


def _hush_celery() -> None:
    # Celery writes a traceback or nine of each answer that is not stored; the parent has a line.
    logging.getLogger("celery.backends.base").setLevel(logging.ERROR)
    # Received, succeeded, failed: the line of a job.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).addFilter(_is_of_no_task)
    logging.getLogger("celery.worker.request").addFilter(_is_no_end_of_a_task)
    logging.getLogger("kombu.transport.redis").addFilter(_name_channel_only)
    warnings.filterwarnings("ignore", "Exception raised outside body: AnswerNotStored", RuntimeWarning)
    logging.getLogger("py.warnings").addFilter(_tell_where_only)


def _say(text: str, _file: object = None) -> None:
    log.info("%s", text)


def _tell_stacks_of(worker: Any) -> None:
    """On SIGUSR1, as of any Celery worker, but without the values of variables; its children's too."""

    def tell(_number: int, frame: FrameType | None) -> None:
        process.tell_stacks(frame)
        for child in getattr(getattr(worker.pool, "_pool", None), "_pool", ()):
            with suppress(ProcessLookupError):
                os.kill(child.pid, CHILDS_STACKS)

    signal.signal(signal.SIGUSR1, tell)


def _name_errors_only(record: logging.LogRecord) -> bool:
    """Keep the words of libraries' errors out of the log: one may be of a neighbour's task, and hold a text."""
    if record.name.partition(".")[0] not in _LIBRARIES:
        return True
    if isinstance(record.args, tuple):
        record.args = tuple(_without_words(each) for each in record.args)
    raised = record.exc_info[1] if record.exc_info else None
    if raised is not None and not isinstance(raised, _OF_CONNECTIONS):
        where = "".join(traceback.format_tb(raised.__traceback__))
        record.exc_info, record.exc_text = None, f"{where}{type(raised).__name__}"
    return True


def _without_words(value: Any) -> Any:
    is_telling = isinstance(value, BaseException) and not isinstance(value, _OF_CONNECTIONS)
    return type(value).__name__ if is_telling else value


def _name_channel_only(record: logging.LogRecord) -> bool:
    """Keep what somebody published on a channel of Celery's out of the log."""
    if str(record.msg).startswith("Cannot process event") and isinstance(record.args, tuple):
        record.args, record.exc_info = (record.args[0], "it is no message of Celery's"), None
    return True


def _tell_where_only(record: logging.LogRecord) -> bool:
    """Of an error around a task, Celery's warning quotes its words and its traceback."""
    told = record.getMessage()
    if "Exception raised outside body" in told:
        kind = _KIND.search(told)
        where = "\n".join(_FRAME.findall(told))
        record.msg, record.args = "%s was raised around a task\n%s", (kind[1] if kind else "an error", where)
    return True


def _is_of_no_task(record: logging.LogRecord) -> bool:
    """Celery gives what it says of a task's fate a context; with a lost child comes a traceback of its own pool."""
    return not hasattr(record, "data")


def _is_no_end_of_a_task(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_ENDS)
