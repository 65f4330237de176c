"""What of Celery's own log nobody needs to read, or should: tracebacks of what is told in a line, texts of others."""

import logging
import warnings

from rerankq_worker.queue.consumer import HandOn


def hush_celery() -> None:
    """For the whole process."""
    # Celery writes a traceback or nine of each answer that is not stored; the parent has a line.
    logging.getLogger("celery.backends.base").setLevel(logging.ERROR)
    logging.getLogger("celery.backends.redis").addFilter(_name_errors_only)
    logging.getLogger("celery.app.trace").addFilter(_is_no_hand_on)
    warnings.filterwarnings("ignore", "Exception raised outside body: AnswerNotStored", RuntimeWarning)


def _name_errors_only(record: logging.LogRecord) -> bool:
    """Keep the words of an error out of the log: in a chord it may be of a neighbour's task, and hold a text."""
    if record.exc_info and record.args and isinstance(record.args, tuple):
        record.args = tuple(
            type(each).__name__ if isinstance(each, Exception) else each for each in record.args
        )
        record.exc_info = None
    return True


def _is_no_hand_on(record: logging.LogRecord) -> bool:
    """Leave out what Celery's child writes, with a traceback, of a job that is for others: the parent has a line."""
    return not (record.exc_info and record.exc_info[0] is HandOn)
