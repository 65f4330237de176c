"""What a failure looks like at the command line: one line and an exit code, never a traceback."""

import json
import sys

from rerankq.contract import errors
from rerankq.contract.errors import RerankError, to_wire
from rerankq.contract.log.lines import in_one_line
from rerankq.local.failure import Unavailable

JOB_FAILED = 1
WRONG_INPUT = 2
UNAVAILABLE = 3

_CODES: dict[type[RerankError], int] = {
    errors.InvalidRequest: WRONG_INPUT,
    errors.InvalidSettings: WRONG_INPUT,
    errors.BrokerUnavailable: UNAVAILABLE,
    errors.NoWorkers: UNAVAILABLE,
    errors.QueueFull: UNAVAILABLE,
    Unavailable: UNAVAILABLE,
}


def exit_code(error: RerankError) -> int:
    """The exit code of the nearest class that has one."""
    return next((_CODES[kind] for kind in type(error).__mro__ if kind in _CODES), JOB_FAILED)


def report(error: RerankError, *, as_json: bool) -> int:
    """Say on stderr what went wrong; the exit code."""
    line = json.dumps({"error": to_wire(error)}, ensure_ascii=False) if as_json else in_words(error)
    print(line, file=sys.stderr)
    return exit_code(error)


def in_words(error: RerankError) -> str:
    """The failure in one line, whatever the names in it hold; with the end of a log where a local service ended."""
    lines = error.message.split("\n") if isinstance(error, Unavailable) else [error.message]
    return "\n".join(
        in_one_line(line) for line in [f"rerankq: {type(error).__name__}: {lines[0]}", *lines[1:]]
    )
