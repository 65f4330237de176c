"""What an operator has ordered and not yet taken back: lanes that are paused, workers that take no more jobs.

Whoever fetches skips a paused lane, in the script that fetches; a worker that drains closes its own gate. Both outlive
every process. A worker of a release before this one obeys neither: it says no `contract` in its heartbeat.
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from rerankq.contract import keys, wire
from rerankq.contract.messages import Lane
from rerankq.contract.transport.scripts import Script


@dataclass(frozen=True, slots=True)
class Order:
    """Since when it holds, by the clock of Redis, and who gave it."""

    since: float = 0.0
    by: str = ""
    model: str | None = None
    """Of a paused lane, the model whose jobs alone wait."""


# KEYS: paused or draining; ARGV: name, order. Its first write frees memory, so that it works on a full Redis.
_GIVE = Script("redis.call('HDEL', KEYS[1], '') return redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])")

Pauses = Mapping[str, Order]
"""By the field of `keys.PAUSED`."""


class Orders:
    """The orders in one Redis; what it refuses or does not answer is redis-py's own error."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    def pause(self, lane: Lane, model: str | None, by: str) -> bool:
        """Let no worker take jobs of this lane, or those of it that name this model. False where it holds already."""
        return self._give(keys.PAUSED, keys.pause_of(lane, model), by, model)

    def resume(self, lane: Lane, model: str | None) -> bool:
        """Take the pause back. False where there was none."""
        return bool(self._redis.hdel(keys.PAUSED, keys.pause_of(lane, model)))

    def paused(self) -> Pauses:
        """The lanes that are paused, and since when."""
        return self._all(keys.PAUSED)

    def drain(self, worker: str, by: str) -> bool:
        """Let this worker take no more jobs. False where it holds already."""
        return self._give(keys.DRAINING, worker, by)

    def employ(self, worker: str) -> bool:
        """Let this worker take jobs again. False where it was not asked to drain."""
        return bool(self._redis.hdel(keys.DRAINING, worker))

    def is_draining(self, worker: str) -> bool:
        """Whether this worker was asked to take no more jobs; not where its user may not ask."""
        try:
            return bool(self._redis.hexists(keys.DRAINING, worker))
        except ResponseError:
            return False

    def draining(self) -> Mapping[str, Order]:
        """The workers that were asked to take no more jobs, alive or not."""
        return self._all(keys.DRAINING)

    def _give(self, key: str, name: str, by: str, model: str | None = None) -> bool:
        seconds, microseconds = self._redis.time()  # pyright: ignore[reportGeneralTypeIssues] - redis-py
        told = {"since": seconds + microseconds / 1e6, "by": by} | ({"model": model} if model else {})
        return bool(_GIVE(self._redis, [key], [name, wire.encode(told).decode()]))

    def _all(self, key: str) -> Mapping[str, Order]:
        told: Any = self._redis.hgetall(key)
        return orders_in(told)


def orders_in(told: Any) -> dict[str, Order]:
    """The orders in what lies under a key; none where Redis refused to tell: its user is one of an older release."""
    if not isinstance(told, Mapping):
        return {}
    fields: Mapping[bytes, bytes] = told
    return {name.decode(errors="replace"): _order(order) for name, order in sorted(fields.items())}


def pause_over(pauses: Pauses, queue: str) -> Order | None:
    """The pause that keeps the jobs of this list waiting."""
    return next((pauses[field] for field in keys.pauses_of(queue) if field in pauses), None)


def lane_in_words(lane: str, model: str | None) -> str:
    """What is paused."""
    return f"the {lane} lane" + ("" if model is None else f" of {model}")


def resume_command(lane: str, model: str | None) -> str:
    """What ends a pause, as it is typed."""
    return f"rerankq resume {lane}" + ("" if model is None else f" --model {shlex.quote(model)}")


def paused_in_words(pauses: Pauses) -> list[str]:
    """A line for each lane that is paused, its name first."""
    return [
        " ".join(
            [
                keys.lane_of_pause(field),
                *([f"of {order.model}"] if order.model else []),
                f"since {datetime.fromtimestamp(order.since, UTC):%Y-%m-%d %H:%M:%S} UTC",
                *([f"by {order.by}"] if order.by else []),
            ]
        )
        for field, order in pauses.items()
    ]


def _order(told: bytes) -> Order:
    """An order, whoever wrote it and how: the script that fetches asks only whether it is there."""
    try:
        fields: Any = wire.decode(told)
        since, by, model = fields.get("since"), fields.get("by"), fields.get("model")
    except (ValueError, AttributeError):
        return Order()
    is_moment = type(since) in (int, float) and math.isfinite(since)
    return Order(
        since if is_moment else 0.0,
        by if isinstance(by, str) else "",
        model if isinstance(model, str) else None,
    )
