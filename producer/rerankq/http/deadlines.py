"""How long whoever asks will wait, by a header or by fields of the body."""

import math
import time
from typing import Any

from starlette.requests import Request

from rerankq.contract.errors import InvalidRequest
from rerankq.http.dialects import Fields

LONGEST_SECONDS = 300.0
"""No request waits longer, whatever it says: what takes longer is a job to come back for."""


def timeout_seconds(request: Request, default: float) -> float:
    """How long this caller waits, counted from now.

    Raises:
        InvalidRequest: `X-Timeout-Seconds` is no number of seconds.
    """
    given = request.headers.get("x-timeout-seconds")
    return default if given is None else min(_seconds(given, "X-Timeout-Seconds"), LONGEST_SECONDS)


def deadline_of(fields: Fields) -> float:
    """By when the answer is wanted, in Unix seconds; infinite where nothing is told.

    Raises:
        InvalidRequest: `deadline` or `timeout` is no number, or both are told.
    """
    deadline, timeout = fields.get("deadline"), fields.get("timeout")
    if timeout is None:
        return math.inf if deadline is None else _number(deadline, "deadline", "Unix seconds")
    if deadline is not None:
        raise InvalidRequest("timeout: expected either it or deadline, got both", {"field": "timeout"})
    return time.time() + _seconds(timeout, "timeout")


def _seconds(given: Any, field: str) -> float:
    expected = "a number of seconds, more than 0"
    number = _number(given, field, expected)
    if number <= 0:
        raise InvalidRequest(f"{field}: expected {expected}", {"field": field})
    return number


def _number(given: Any, field: str, expected: str) -> float:
    try:
        number = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidRequest(f"{field}: expected {expected}", {"field": field})
    return number
