"""What lies and moves in a service's Redis, read at one moment; and what two such readings tell of the time between.

What this user may not read is left out and named; the rest is told all the same. No user's text is kept.
"""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from rerankq.contract import keys
from rerankq.contract.heartbeats import WorkerStatus, alive_in, known_models
from rerankq.contract.messages import LANES, Lane
from rerankq.contract.orders import Order, Pauses, orders_in
from rerankq.contract.redis_clients import number_in
from rerankq.contract.refusals import Refusal, refusal_in
from rerankq.contract.totals import Totals, totals_in
from rerankq.contract.transport.envelope import Undecodable, job_id, open_envelope
from rerankq.contract.transport.scripts import HELD
from rerankq.procedures import accepted

DEAD_LETTERS_TOLD_APART = 1_000
_PARTS: Mapping[str, tuple[Any, ...]] = {
    "workers": ("HGETALL", keys.WORKERS),
    "pace": ("HGETALL", keys.PACE),
    "paused lanes": ("HGETALL", keys.PAUSED),
    "totals": ("HGETALL", keys.TOTALS),
    "models": ("ZRANGE", keys.MODELS, 0, -1),
    "in hand": tuple(HELD.in_full([keys.HELD], [])),
    "dead letters": ("ZREVRANGE", keys.DEAD, 0, DEAD_LETTERS_TOLD_APART - 1),
    "redis": ("INFO",),
}
"""What is asked first, by its name in `not_read`."""

ListOf = tuple[Lane, str | None]
"""A lane, and the model that its jobs name, if any."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything at one moment; None: it could not be read."""

    at_monotonic: float
    now: float
    """By the clock of Redis, Unix seconds."""
    workers: tuple[WorkerStatus, ...]
    paused: Pauses
    waiting: Mapping[ListOf, int]
    oldest_seconds: Mapping[ListOf, float]
    """How long the next in line has waited; absent where nothing waits, or nobody noted when it came."""
    in_hand: Mapping[Lane, int] | None
    dead: Mapping[Lane, int] | None
    totals: Totals | None
    info: Mapping[str, Any] | None
    not_read: Mapping[str, Refusal] = field(default_factory=dict[str, Refusal])


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFacts:
    """A lane, or the jobs of one that name a model; of these less is known."""

    lane: Lane
    model: str | None = None
    waiting: int
    oldest_seconds: float | None
    in_hand: int | None = None
    in_per_second: float | None = None
    out_per_second: float | None = None
    p50_seconds: float | None = None
    """From submission until the ranking was stored; of those between the readings, or, without any, of all."""
    p95_seconds: float | None = None
    dead: int | None = None
    empties_in_seconds: float | None = None
    """At this rate; infinite where it grows or stands still."""
    workers: int | None = None
    """That take jobs of it."""
    workers_needed: int | None = None
    """That would keep up with what comes in, at the pace of those that are there; one at least while any waits."""
    paused_since: float | None = None
    """Unix seconds."""
    paused_seconds: float | None = None
    paused_by: str | None = None


def read(redis: "Redis") -> Reading:
    """Everything there is, in three round trips.

    Raises:
        RedisError: it does not answer, or will not have us at all.
    """
    not_read: dict[str, Refusal] = {}
    moment, *replies = _ask(redis, [("TIME",), *_PARTS.values()])
    seconds, microseconds = accepted(moment)
    told = {part: _or_note(part, reply, not_read) for part, reply in zip(_PARTS, replies, strict=True)}
    now = float(seconds) + float(microseconds) / 1e6
    beats = told["workers"] or {}
    lists: list[ListOf] = [
        (lane, model) for model in (None, *known_models(told["models"] or (), beats)) for lane in LANES
    ]
    waiting, oldest = _lists(redis, lists, now)
    return Reading(
        at_monotonic=time.monotonic(),
        now=now,
        workers=alive_in(beats, told["pace"] or {}, now),
        paused=orders_in(told["paused lanes"]),
        waiting=waiting,
        oldest_seconds=oldest,
        in_hand=None if told["in hand"] is None else _by_lane(told["in hand"]),
        dead=None if told["dead letters"] is None else _dead(redis, told["dead letters"]),
        totals=totals_in(told["totals"]) if told["totals"] else None,
        info=told["redis"],
        not_read=not_read,
    )


def lanes_of(reading: Reading, earlier: Reading | None = None) -> list[LaneFacts]:
    """What is to be told of each lane, and below it of each model whose jobs wait, or are paused, by themselves.

    Args:
        earlier: without it nothing is known of what comes and goes.
    """
    found: list[LaneFacts] = []
    for lane in LANES:
        found.append(_lane(lane, reading, earlier))
        found += [_of_model(lane, model, reading) for model in _models_told(lane, reading)]
    return found


def _lane(lane: Lane, reading: Reading, earlier: Reading | None) -> LaneFacts:
    waiting = _waiting(lane, reading)
    ages = [age for (each, _), age in reading.oldest_seconds.items() if each == lane]
    coming, going = _rates(lane, reading, earlier)
    p50, p95 = _quantiles(lane, reading, earlier)
    takers = [worker for worker in reading.workers if lane in worker.lanes and not worker.is_draining]
    pause = reading.paused.get(keys.pause_of(lane))
    return LaneFacts(
        lane=lane,
        waiting=waiting,
        oldest_seconds=max(ages, default=None),
        in_hand=None if reading.in_hand is None else reading.in_hand.get(lane, 0),
        in_per_second=coming,
        out_per_second=going,
        p50_seconds=p50,
        p95_seconds=p95,
        dead=None if reading.dead is None else reading.dead.get(lane, 0),
        empties_in_seconds=_empties(waiting, coming, going, pause),
        workers=len(takers),
        workers_needed=_needed(lane, waiting, coming, takers),
        **_pause(pause, reading.now),
    )


def _models_told(lane: Lane, reading: Reading) -> list[str]:
    """Those whose jobs wait there, or would: they are paused."""
    waiting = {
        model: None for (each, model), jobs in reading.waiting.items() if each == lane and model and jobs
    }
    paused = {
        order.model: None for field, order in reading.paused.items() if keys.lane_of_pause(field) == lane
    }
    return [model for model in waiting | paused if model is not None]


def _of_model(lane: Lane, model: str, reading: Reading) -> LaneFacts:
    takers = [worker for worker in reading.workers if lane in worker.lanes and worker.may_serve(model)]
    return LaneFacts(
        lane=lane,
        model=model,
        waiting=reading.waiting.get((lane, model), 0),
        oldest_seconds=reading.oldest_seconds.get((lane, model)),
        workers=len(takers),
        **_pause(reading.paused.get(keys.pause_of(lane, model)), reading.now),
    )


def _waiting(lane: Lane, reading: Reading) -> int:
    return sum(jobs for (each, _), jobs in reading.waiting.items() if each == lane)


def _pause(pause: Order | None, now: float) -> dict[str, Any]:
    if pause is None:
        return {}
    return {"paused_since": pause.since, "paused_seconds": max(now - pause.since, 0.0), "paused_by": pause.by}


def _rates(lane: Lane, now: Reading, then: Reading | None) -> tuple[float | None, float | None]:
    """Jobs that came and that ended, a second; what came is what there is more of, and what ended."""
    if then is None or now.totals is None or then.totals is None:
        return None, None
    seconds = max(now.at_monotonic - then.at_monotonic, 1e-3)
    ended = [_ended(lane, reading.totals) for reading in (then, now) if reading.totals is not None]
    going = max(ended[1] - ended[0], 0) / seconds
    if now.in_hand is None or then.in_hand is None:
        return None, going
    more = _waiting(lane, now) + now.in_hand.get(lane, 0) - _waiting(lane, then) - then.in_hand.get(lane, 0)
    return max(more / seconds + going, 0.0), going


def _ended(lane: Lane, totals: Totals) -> int:
    return sum(count for (each, _), count in totals.jobs.items() if each == lane)


def _quantiles(lane: Lane, now: Reading, then: Reading | None) -> tuple[float | None, float | None]:
    if now.totals is None:
        return None, None
    times = now.totals.times[lane]
    if then is not None and then.totals is not None:
        lately = times.since(then.totals.times[lane])
        times = lately if lately.count else times
    return times.quantile(0.5), times.quantile(0.95)


def _empties(waiting: int, coming: float | None, going: float | None, pause: Order | None) -> float | None:
    if not waiting:
        return 0.0
    if pause is not None:
        return math.inf
    if coming is None or going is None:
        return None
    return waiting / (going - coming) if going > coming else math.inf


def _needed(lane: Lane, waiting: int, coming: float | None, takers: Sequence[WorkerStatus]) -> int | None:
    paces = [worker.seconds_per_job[lane] for worker in takers if lane in worker.seconds_per_job]
    if coming is None or not paces:
        return None
    return max(math.ceil(coming * mean(paces)), 1 if waiting else 0)


def _ask(redis: "Redis", commands: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The replies; of a refused one its error."""
    step = redis.pipeline(transaction=False)
    for command in commands:
        step.execute_command(*command)
    return step.execute(raise_on_error=False)


def _or_note(part: str, reply: Any, not_read: dict[str, Refusal]) -> Any:
    if not isinstance(reply, Exception):
        return reply
    refusal = refusal_in(reply)
    if refusal is None or not isinstance(reply, ResponseError):
        raise reply
    not_read[part] = refusal
    return None


def _lists(
    redis: "Redis", lists: Sequence[ListOf], now: float
) -> tuple[dict[ListOf, int], dict[ListOf, float]]:
    """How many wait on each list, those of any priority included, and how long the next in line has."""
    queues = [keys.queue_of(*each) for each in lists]
    asked = [
        (("LINDEX", queue, -1), *(("LLEN", key) for key in (queue, *keys.priority_lists(queue))))
        for queue in queues
    ]
    replies = iter(_ask(redis, (command for each in asked for command in each)))
    waiting: dict[ListOf, int] = {}
    next_in_line: dict[ListOf, str] = {}
    for each, commands in zip(lists, asked, strict=True):
        message, *lengths = [next(replies) for _ in commands]
        waiting[each] = sum(length for length in lengths if isinstance(length, int))
        job = _job_of(message)
        if job is not None:
            next_in_line[each] = job
    submitted = _ask(redis, (("HGET", keys.job(job), "submitted") for job in next_in_line.values()))
    ages = zip(next_in_line, map(_number, submitted), strict=True)
    return waiting, {each: max(now - moment, 0.0) for each, moment in ages if moment is not None}


def _job_of(message: Any) -> str | None:
    try:
        return job_id(open_envelope(message)) if isinstance(message, bytes) else None
    except Undecodable:
        return None


def _number(reply: Any) -> float | None:
    return number_in(reply) if isinstance(reply, bytes) else None


def _by_lane(counts: Sequence[Any]) -> dict[Lane, int]:
    found = Counter[Lane]()
    for name, count in zip(counts[::2], counts[1::2], strict=True):
        found[keys.lane_of(name.decode(errors="replace"))] += count
    return found


def _dead(redis: "Redis", ids: Sequence[bytes]) -> dict[Lane, int]:
    asked = (("HGET", keys.dead_letter(each.decode(errors="replace")), "lane") for each in ids)
    lanes = [reply.decode(errors="replace") for reply in _ask(redis, asked) if isinstance(reply, bytes)]
    return Counter(keys.lane_of(queue) for queue in lanes)
