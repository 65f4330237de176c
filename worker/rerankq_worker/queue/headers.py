"""Which headers and bodies Celery can use without tripping, and how far a sender's wishes go.

Pure; knows no message and no consumer.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rerankq.contract.transport.envelope import is_id

TimeLimits = tuple[float | None, float | None]
"""(soft, hard) seconds; None: no limit. The other way round than in a header of Celery's."""


# What protocol 1, which older clients and those of other languages speak, keeps in the body.
_IN_THE_BODY = ("task", "id", "timelimit", "eta", "expires", "retries", "root_id", "parent_id", "group")


def with_those_of_the_body(headers: Mapping[str, Any], body: Any) -> dict[str, Any]:
    """All headers, wherever the sender put them; Celery then reads the message by these and by no others."""
    fields: Mapping[str, Any] = body if isinstance(body, dict) else {}
    return {name: fields[name] for name in _IN_THE_BODY if name in fields} | dict(headers)


def bounded(asked: Sequence[float | None] | None, lane: TimeLimits) -> list[float | None]:
    """Hard and soft limit as Celery sends them: each the smaller of the sender's and the lane's.

    Celery starts the hard limit's clock when the soft limit strikes, so a later soft limit switches it off.
    """
    asked_hard, asked_soft = asked or (None, None)
    lane_soft, lane_hard = lane
    hard, soft = _smaller(asked_hard, lane_hard), _smaller(asked_soft, lane_soft)
    return [hard, None if hard and soft and soft >= hard else soft]


def seconds_until(eta: str | None) -> float:
    """How long from now; 0 for no time at all and for one that has passed.

    Raises:
        ValueError: it is no date.
    """
    if eta is None:
        return 0.0
    moment = datetime.fromisoformat(eta)
    return max(
        ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds(), 0.0
    )


def wrong_header(headers: Mapping[str, Any]) -> str | None:
    """The first header that Celery would trip over, by name; None if all are fit to use."""
    if "task" not in headers:
        return None  # no task at all; Celery says so
    is_fit: dict[str, Callable[[Any], bool]] = {
        "id": is_id,
        "task": lambda value: isinstance(value, str),
        "timelimit": _is_pair_of_limits,
        "stamped_headers": _is_list_of_text,
        "stamps": lambda value: isinstance(value, dict | None),
        **dict.fromkeys(
            ("eta", "expires", "root_id", "parent_id", "shadow"), lambda value: isinstance(value, str | None)
        ),
    }
    return next((name for name, fits in is_fit.items() if not fits(headers.get(name))), None)


def is_task_body(body: Any) -> bool:
    """Whether a body is that of a task, in the form of protocol 2 or of one that mixes both.

    Celery acknowledges one whose keyword arguments are no table, and tells nobody.
    """
    if isinstance(body, dict):
        return True  # Celery checks it by itself
    args, kwargs, embed = body if isinstance(body, list | tuple) and len(body) == 3 else (None, None, None)
    return isinstance(args, list | tuple) and isinstance(kwargs, dict) and isinstance(embed, dict | None)


def _is_list_of_text(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def _is_pair_of_limits(value: Any) -> bool:
    return value is None or (isinstance(value, Sequence) and len(value) == 2 and all(map(_is_limit, value)))


def _is_limit(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (is_number and value > 0)


def _smaller(asked: float | None, bound: float | None) -> float | None:
    return min((limit for limit in (asked, bound) if limit is not None), default=None)
