"""For schemathesis, in its own environment: a wait that is right but too short for any answer is made longer."""

from typing import Any

import schemathesis

LONG_ENOUGH_SECONDS = "5"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    headers = case.headers or {}
    try:
        is_short = 0 < float(headers.get("X-Timeout-Seconds", "nan")) < float(LONG_ENOUGH_SECONDS)
    except (TypeError, ValueError):
        return
    if is_short:
        headers["X-Timeout-Seconds"] = LONG_ENOUGH_SECONDS
