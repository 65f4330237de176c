"""Which headers of a message Celery can use without tripping, and time limits in the order it needs.

Pure; knows no message and no consumer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

TimeLimits = tuple[float | None, float | None]
"""(soft, hard) seconds; None: no limit. The other way round than in a header of Celery's."""


def in_order(hard: float | None, soft: float | None) -> list[float | None]:
    """Hard and soft limit as Celery sends them, without a soft one that comes too late.

    Celery starts the hard limit's clock when the soft limit strikes, so a later soft limit switches it off.
    """
    return [hard, None if hard and soft and soft >= hard else soft]


def wrong_header(headers: Mapping[str, Any]) -> str | None:
    """The first header that Celery would trip over, by name; None if all are fit to use."""
    if "task" not in headers:
        return None  # protocol 1 keeps its fields in the body
    is_fit = {
        "id": is_id,
        "task": _is_text,
        "timelimit": _is_pair_of_limits,
        "stamped_headers": _is_list_of_text,
        "stamps": _is_table_or_none,
        **dict.fromkeys(("eta", "expires", "root_id", "parent_id", "shadow"), _is_text_or_none),
    }
    return next((name for name, fits in is_fit.items() if not fits(headers.get(name))), None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_id(value: Any) -> bool:
    """Whether this can name a job: in a Redis key, in a log line."""
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_table_or_none(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _is_list_of_text(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(map(_is_text, value)))


def _is_pair_of_limits(value: Any) -> bool:
    return value is None or (isinstance(value, Sequence) and len(value) == 2 and all(map(_is_limit, value)))


def _is_limit(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (is_number and 0 < value < 1e7)
