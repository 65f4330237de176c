"""Celery's own log among ours: in our lines, without what the line of a job tells already, and without any text.

Celery prints its banner, its shutdown and its stacks past every log, and waits for whoever reads them: here they are
records as any.
"""

import logging
import os
import signal
import warnings
from contextlib import suppress
from logging.handlers import WatchedFileHandler
from types import FrameType
from typing import Any

from billiard import util as billiard_util
from celery.apps import worker as celery_worker
from celery.signals import setup_logging

from rerankq.contract.log import process
from rerankq.contract.log.lines import LineFormatter, Lines
from rerankq_worker.settings import WorkerSettings

CHILDS_STACKS = signal.SIGUSR2  # SIGUSR1 is its soft time limit

_ENDS = ("Hard time limit", "Soft time limit", "Discarding revoked task", "Task handler raised error")

log = logging.getLogger(__name__)


def take_over_log(worker: Any, settings: WorkerSettings) -> None:
    """For the whole process, a Celery worker that is about to begin.

    Args:
        worker: Celery's.
    """
    name = f"worker {worker.hostname.partition('@')[0]}"

    process.speak_as(name, settings.log, settings.log_level)

    def set_up(logfile: str | None, **_: object) -> None:
        pool_log = billiard_util.get_logger()  # not before: Celery has it made anew
        pool_log.propagate = True
        pool_log.setLevel(logging.ERROR)
        if logfile:
            handler = WatchedFileHandler(logfile)
            handler.setFormatter(LineFormatter(Lines(settings.log, name)))
            process.use(handler, settings.log_level)

    setup_logging.connect(set_up, weak=False)
    worker.quiet = True
    celery_worker.safe_say = _say  # pyright: ignore[reportAttributeAccessIssue]
    celery_worker.install_cry_handler = lambda: _tell_stacks_of(worker)  # pyright: ignore[reportAttributeAccessIssue]
    process.tell_stacks_on(
        CHILDS_STACKS
    )  # children take it over: without a handler the signal would end them
    _hush_celery()


def _hush_celery() -> None:
    # Celery writes a traceback or nine of each answer that is not stored; the parent has a line.
    logging.getLogger("celery.backends.base").setLevel(logging.ERROR)
    logging.getLogger("celery.backends.redis").addFilter(_name_errors_only)
    # Received, succeeded, failed: the line of a job.
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).addFilter(_is_of_no_task)
    logging.getLogger("celery.worker.request").addFilter(_is_no_end_of_a_task)
    warnings.filterwarnings("ignore", "Exception raised outside body: AnswerNotStored", RuntimeWarning)


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
    """Keep the words of an error out of the log: in a chord it may be of a neighbour's task, and hold a text."""
    if record.exc_info and record.args and isinstance(record.args, tuple):
        record.args = tuple(
            type(each).__name__ if isinstance(each, Exception) else each for each in record.args
        )
        record.exc_info = None
    return True


def _is_of_no_task(record: logging.LogRecord) -> bool:
    """Celery gives what it says of a task's fate a context; with a lost child comes a traceback of its own pool."""
    return not hasattr(record, "data")


def _is_no_end_of_a_task(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_ENDS)
