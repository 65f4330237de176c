"""How long whoever asks will wait, by a header or by fields of the body."""

import math
import time
from typing import Any

from starlette.requests import Request

from rerankq.contract.errors import InvalidRequest
from rerankq.http.dialects import Fields, field_of, finite

LONGEST_SECONDS = 300.0
"""No request waits longer, whatever it says: what takes longer is a job to come back for."""

_SECONDS = "a number of seconds, more than 0"


def timeout_seconds(request: Request, default: float) -> float:
    """How long this caller waits, counted from now.

    Raises:
        InvalidRequest: `X-Timeout-Seconds` is no number of seconds.
    """
    told = field_of(request.headers, "X-Timeout-Seconds", _SECONDS, _more_than_none)
    return default if told is None else min(told, LONGEST_SECONDS)


def deadline_of(fields: Fields) -> float:
    """By when the answer is wanted, in Unix seconds; infinite where nothing is told.

    Raises:
        InvalidRequest: `deadline` or `timeout` is no number, or both are told.
    """
    deadline = field_of(fields, "deadline", "Unix seconds", finite)
    timeout = field_of(fields, "timeout", _SECONDS, _more_than_none)
    if timeout is None:
        return math.inf if deadline is None else deadline
    if deadline is not None:
        raise InvalidRequest("timeout: expected either it or deadline, got both", {"field": "timeout"})
    return time.time() + timeout


def _more_than_none(value: Any) -> float:
    seconds = finite(value)
    if seconds <= 0:
        raise ValueError
    return seconds
