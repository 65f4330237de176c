"""What Celery workers say of themselves in Redis, and how long a job takes them: told, read and pruned here alone.

Anybody can write there: a later release, another program, a hand. What is not understood is left out and left alone.
"""

import math
import secrets
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model
from redis import Redis
from redis.exceptions import ResponseError

from rerankq.contract import keys, wire
from rerankq.contract.clock import RedisClock
from rerankq.contract.messages import LANES, Lane
from rerankq.contract.orders import orders_in
from rerankq.contract.redis_clients import is_of_another_type

UNIQUE_MARK = "~"
IN_SERVICE = ("ready", "busy")
"""States of a worker that runs jobs."""
FORGET_AFTER_SECONDS = 3600.0
TRAFFIC_MEMORY_SECONDS = 600.0  # what was scored that long ago counts for a third

_PAIRS, _RECENT, _TOLD = "pairs_per_second", "recent_pairs", "told"  # beside the lanes


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """What one Celery worker last said of itself."""

    name: str
    state: str
    """`loading`, `ready`, `busy`, `stuck` or `broken`: its engine's own word. Of one in service that takes no more
    jobs, `draining`, and `drained` as soon as it holds none."""
    lanes: tuple[Lane, ...]
    device: str = ""
    dtype: str = ""
    model: str = ""
    revision: str = ""
    engine: str = ""
    """`packed` or `sentence-transformers`; nothing in the words of an older worker."""
    family: str = ""
    """`model_type` of the model's config.json."""
    scale: str = ""
    """How a logit becomes a relevance score."""
    limits_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """How long a job may take here, by lane; absent in the words of an older worker."""
    max_length_tokens: int | None = None
    """Tokens it reads of a pair; None in the words of an older worker."""
    serves_unnamed: bool = True
    """Whether it takes jobs that name no model."""
    reads_lanes_of_models: bool = True
    """False of an older worker."""
    seen_seconds_ago: float = 0.0
    seconds_per_job: Mapping[Lane, float] = field(default_factory=dict[Lane, float])
    """How long a job took here of late, by lane; absent where it has run none."""
    pairs_per_second: float | None = None
    """Of bulk jobs of late; None where it has run none, or is of an older release."""
    recent_pairs: float = 0.0
    """Scored in the last minutes, the older the less: its share of the traffic."""
    version: str = ""
    """Its release; nothing in the words of an older worker, as in all that follows."""
    contract: int = 0
    """The latest version of messages that it reads; 0 of an older worker, which knows neither pause nor drain."""
    host: str = ""
    job: str = ""
    """The id of the job it runs."""
    job_seconds: float | None = None
    """For how long it had run it when it told."""
    device_busy: float | None = None
    """The share of the last seconds in which its device was at work, for whomever."""
    device_pairs_per_second: float | None = None
    """That its device scored in the last seconds, for whomever."""
    is_draining: bool = False
    """Whether it was asked to take no more jobs."""
    clock_ahead_seconds: float | None = None
    """Its host's clock less Redis's when it told, which `Heartbeats.tell` finds out."""

    @property
    def names(self) -> tuple[str, ...]:
        """What a request may call the model served here; nothing where that is not loaded, or its lanes not read."""
        return names_of(self.model, self.revision) if self.reads_lanes_of_models else ()

    def may_serve(self, model: str | None) -> bool:
        """Whether jobs that name this model, or none, are for this worker; for one that loads its model they may be."""
        if self.is_draining:
            return False
        if model is None:
            return self.serves_unnamed
        return model in self.names or (not self.model and self.state == "loading")


_FOUND_OUT = {"name", "reads_lanes_of_models", "seen_seconds_ago", "seconds_per_job", _PAIRS, _RECENT}
"""Of a status what no heartbeat says."""


def _as_told(of: Field[Any]) -> tuple[Any, Any]:
    """A field's type and what is taken for it where nothing is said."""
    default = of.default if of.default_factory is MISSING else of.default_factory()
    return get_type_hints(WorkerStatus)[of.name], ... if default is MISSING else default


_TOLD_OF = {each.name: _as_told(each) for each in fields(WorkerStatus) if each.name not in _FOUND_OUT}
_IN_A_BEAT: dict[str, Any] = _TOLD_OF | {"lanes": (list[str], ...), "seen": (float, ...)}
_Beat: Any = create_model(
    "_Beat",
    __doc__="A heartbeat as it lies in Redis, `seen` by its clock; a later release may say more, and other lanes.",
    __config__=ConfigDict(strict=True, extra="ignore", allow_inf_nan=False),
    **_IN_A_BEAT,
)


def names_of(model: str, revision: str) -> tuple[str, ...]:
    """What a request may call a model: its name, and its name with its revision; nothing where it has no name yet."""
    return (model, f"{model}@{revision}") if model else ()


def faded(pairs: float, seconds: float) -> float:
    """What pairs scored that long ago count for in a worker's recent ones."""
    return pairs * math.exp(-max(seconds, 0.0) / TRAFFIC_MEMORY_SECONDS)


def unique_ending() -> str:
    """What makes a worker's name unlike any other: six hex digits behind a mark that no host's name holds."""
    return UNIQUE_MARK + secrets.token_hex(3)


class Heartbeats:
    """The workers of one Redis; what it refuses or does not answer is redis-py's own error."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._clock = RedisClock()

    def tell(self, worker: WorkerStatus) -> None:
        """Say that this worker lives, and how it is; forget those not heard of for an hour."""
        now = self._now()
        told = {name: getattr(worker, name) for name in _TOLD_OF}
        times = {"seen": now, "clock_ahead_seconds": time.time() - now}
        self._set(keys.WORKERS, worker.name, told | times)
        self._forget_the_long_gone(now)

    def tell_pace(
        self,
        name: str,
        seconds_per_job: Mapping[Lane, float],
        pairs_per_second: float | None = None,
        recent_pairs: float = 0.0,
    ) -> None:
        """Say how long a job takes this worker, how many pairs of bulk jobs it scores a second, and has of late."""
        traffic = {_PAIRS: pairs_per_second, _RECENT: recent_pairs, _TOLD: self._now()}
        self._set(keys.PACE, name, {**seconds_per_job, **traffic})

    def leave(self, name: str) -> None:
        """Take this worker off the list, so that nobody waits for its heartbeat to grow old."""
        self._redis.hdel(keys.WORKERS, name)
        self._redis.hdel(keys.PACE, name)

    def alive(self) -> tuple[WorkerStatus, ...]:
        """The workers heard of lately, by name."""
        now, paces = self._now(), self._all(keys.PACE)
        return alive_in(self._all(keys.WORKERS), paces, now)

    def lost(self) -> int:
        """How many workers fell silent within the last hour without taking their leave."""
        now = self._now()
        ages = [now - beat.seen for beat in _understood(self._all(keys.WORKERS)).values()]
        return sum(keys.HEARTBEAT_TTL_SECONDS < age <= FORGET_AFTER_SECONDS for age in ages)

    def models(self) -> list[str]:
        """The models that jobs may have named: those asked for in the last week, and those that are served."""
        asked: Any = []
        beats: dict[bytes, bytes] = {}
        with suppress(ResponseError):  # something else lies there, or a user of before has no right to it
            asked = self._redis.zrange(keys.MODELS, 0, -1)
        with suppress(ResponseError):
            beats = self._all(keys.WORKERS)
        return known_models(asked, beats)

    def _forget_the_long_gone(self, now: float) -> None:
        with suppress(ResponseError):  # something else lies there, or a user of before has no right to it
            self._redis.zremrangebyscore(keys.MODELS, "-inf", now - keys.JOB_TTL_SECONDS)
        beats = _understood(self._all(keys.WORKERS))
        for name, beat in beats.items():
            if abs(now - beat.seen) > FORGET_AFTER_SECONDS:
                self._redis.hdel(keys.WORKERS, name)
                self._redis.hdel(keys.PACE, name)
        for name, order in orders_in(self._all(keys.DRAINING)).items():
            if name.encode() not in beats and abs(now - order.since) > FORGET_AFTER_SECONDS:
                self._redis.hdel(keys.DRAINING, name)

    def _now(self) -> float:
        asked_at = time.monotonic()
        told: Any = self._redis.time()
        self._clock.learn(told, asked_at)
        return self._clock.now()

    def _all(self, key: str) -> dict[bytes, bytes]:
        try:
            told: Any = self._redis.hgetall(key)
        except ResponseError as error:
            if not is_of_another_type(error):
                raise
            return {}
        return told

    def _set(self, key: str, name: str, value: Any) -> None:
        text = wire.encode(value).decode()
        try:
            self._redis.hset(key, name, text)
        except ResponseError as error:
            if not is_of_another_type(error):
                raise
            self._redis.delete(key)  # whatever it is, nobody could be told for as long as it stays
            self._redis.hset(key, name, text)


def alive_in(
    beats: Mapping[bytes, bytes], paces: Mapping[bytes, bytes], now: float
) -> tuple[WorkerStatus, ...]:
    """The workers heard of lately, by name, in what lies under `keys.WORKERS` and `keys.PACE`."""
    found = [
        _worker_status(name, beat, _pace(paces.get(name, b"")), now)
        for name, beat in _understood(beats).items()
        # A beat from the future is no sign of life either: it would never grow old.
        if abs(now - beat.seen) <= keys.HEARTBEAT_TTL_SECONDS
    ]
    return tuple(sorted(found, key=lambda worker: worker.name))


def known_models(asked: Iterable[bytes], beats: Mapping[bytes, bytes]) -> list[str]:
    """What requests may call models, in what lies under `keys.MODELS` and `keys.WORKERS`."""
    served = {name for beat in _understood(beats).values() for name in names_of(beat.model, beat.revision)}
    return sorted(served | {name.decode(errors="replace") for name in asked})


def _understood(beats: Mapping[bytes, bytes]) -> dict[bytes, Any]:
    """By name each `_Beat`."""
    found: dict[bytes, Any] = {}
    for name, beat in beats.items():
        with suppress(ValidationError):
            found[name] = _Beat.model_validate_json(beat)
    return found


def _worker_status(name: bytes, beat: Any, pace: Mapping[str, float], now: float) -> WorkerStatus:
    return WorkerStatus(
        name=name.decode(errors="replace"),
        lanes=tuple(lane for lane in LANES if lane in beat.lanes),
        seen_seconds_ago=max(now - beat.seen, 0.0),
        reads_lanes_of_models="serves_unnamed" in beat.model_fields_set,
        seconds_per_job={lane: pace[lane] for lane in LANES if lane in pace},
        pairs_per_second=pace.get(_PAIRS),
        recent_pairs=faded(pace.get(_RECENT, 0.0), now - pace.get(_TOLD, now)),
        **beat.model_dump(exclude={"seen", "lanes"}),
    )


def _pace(told: bytes) -> dict[str, float]:
    try:
        by_name = wire.decode(told)
    except ValueError:
        return {}
    if not isinstance(by_name, dict):
        return {}
    return {
        name: float(by_name[name])
        for name in (*LANES, _PAIRS, _RECENT, _TOLD)
        if _is_positive(by_name.get(name))
    }


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0
