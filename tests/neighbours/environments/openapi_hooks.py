"""For schemathesis, in its own environment: what no schema can tell, and is right to be refused, is not asked."""

from typing import Any

import schemathesis

LONG_ENOUGH_SECONDS = "5"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    _wait_long_enough(case.headers or {})
    if isinstance(case.body, dict):
        _leave_out_instructions(case.body)


def _wait_long_enough(headers: Any) -> None:
    try:
        is_short = 0 < float(headers.get("X-Timeout-Seconds", "nan")) < float(LONG_ENOUGH_SECONDS)
    except (TypeError, ValueError):
        return
    if is_short:
        headers["X-Timeout-Seconds"] = LONG_ENOUGH_SECONDS


def _leave_out_instructions(body: Any) -> None:
    """The model that answers reads none; what is no text stays, to be refused."""
    for fields in (body, body.get("chat_template_kwargs")):
        for word in ("instruction", "instruct"):
            if isinstance(fields, dict) and isinstance(fields.get(word), str):
                del fields[word]
