"""Admission: refuse early, with a time to come back, rather than accept what cannot be answered.

The judgement is pure; one class reads what it judges by. That there is room is seen to in the step that puts the job on
its lane: of many who ask at once, as many are let in as there is room for.
"""

import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from redis.exceptions import ResponseError

from rerankq.contract import heartbeats, keys
from rerankq.contract.clock import RedisClock
from rerankq.contract.errors import NoWorkers, QueueFull
from rerankq.contract.heartbeats import WorkerStatus, alive_in
from rerankq.contract.messages import LANES, Lane
from rerankq.contract.orders import Order, Pauses, orders_in
from rerankq.contract.redis_clients import reply_or
from rerankq.contract.risks import FULL_FRACTION
from rerankq.contract.totals import Refusal, of_refusal
from rerankq.procedures import Procedure, accepted, ask
from rerankq.settings import ClientSettings

SURROUNDINGS_AGE_SECONDS = 1.0  # workers, pace and memory change slowly
_UNKNOWN_MEMORY_RETRY_SECONDS = 5.0
_PAUSED_RETRY_SECONDS = 60.0  # nobody knows for how long
FULL_FRACTIONS: Mapping[Lane, float] = {"interactive": FULL_FRACTION, "bulk": 0.60}
"""From where on the broker is too full for a lane; bulk work leaves room for interactive."""
_SHOWN_CHARACTERS = 100  # of a model's name
_SPARE = 1.25  # jobs differ, and so does the pace


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a new job would meet, its own lane's length aside."""

    workers: tuple[WorkerStatus, ...] = ()
    seconds_per_job: Mapping[str, float] = field(default_factory=dict[str, float])
    """Until one more job of a lane is done, all its workers together; absent where none has run one."""
    job_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """How long one job of a lane takes its worker."""
    memory_fraction: float = 0.0
    """Of the broker's limit; 0 when nothing is known."""
    pauses: Pauses = field(default_factory=dict[str, Order])
    """Lanes of which no worker takes a job until an operator resumes them."""

    def of(self, model: str | None) -> "Surroundings":
        """What jobs that name this model, or none, would meet: workers of other models neither count nor delay."""
        workers = tuple(worker for worker in self.workers if worker.may_serve(model))
        return _around(workers, self.memory_fraction, self.pauses)


@dataclass(frozen=True, slots=True)
class Haste:
    """By when a job's answer is wanted."""

    seconds_left: float = math.inf
    takes_partial: bool = False
    """An answer with what has been scored by then will do."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many jobs may be before a new one."""

    waiting: float = math.inf
    """In its lane."""
    ahead: float = math.inf
    """In its lane and being scored."""


def room(lane: Lane, around: Surroundings, haste: Haste, settings: ClientSettings) -> Room:
    """How many jobs may be before a new one that is to be let in; what is not known refuses nobody.

    A job is let in while it can be answered in its own time, as jobs of its lane go lately, with something to spare:
    where as many are let in as just fit, half of them are too late. With nobody before it, it always is.
    """
    pace = around.seconds_per_job.get(lane)
    if pace is None:
        return Room(settings.max_jobs(lane) - 1)
    waiting = min(settings.max_jobs(lane) - 1, settings.max_wait_seconds(lane) / pace)
    if haste.seconds_left <= 0:  # its worker tells it so
        return Room(waiting)
    own_seconds = 0.0 if haste.takes_partial else around.job_seconds.get(lane, pace)
    return Room(waiting, max((haste.seconds_left / _SPARE - own_seconds) / pace, 0.0))


def refusal(
    lane: Lane, waiting: int, ahead: int, around: Surroundings, haste: Haste, settings: ClientSettings
) -> QueueFull:
    """What a job that finds no room is told."""
    pace = around.seconds_per_job.get(lane, 0.0)
    if keys.pause_of(lane) in around.pauses:
        situation = f"the {lane} lane is paused, and {waiting:,} jobs wait in it"
        return _full("paused", situation, _PAUSED_RETRY_SECONDS)
    if waiting >= settings.max_jobs(lane):
        situation = f"{waiting:,} jobs wait in the {lane} lane, as many as may"
        return _full("lane_full", situation, max(waiting * pace / 10, 1.0))
    allowed = room(lane, around, haste, settings)
    if waiting > allowed.waiting:
        situation = f"about {waiting * pace:.0f} s of work wait in the {lane} lane"
        return _full("too_much_ahead", situation, waiting * pace / 2)
    return _full(
        "too_late",
        f"about {ahead * pace:.1f} s of work are ahead in the {lane} lane, and the job has {haste.seconds_left:.1f} s",
        max((ahead - allowed.ahead) * pace, pace),
    )


class Admission:
    """Reads the broker's state, at most once a second, and tells in the same trip whom it refused since."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self.clock = RedisClock()
        self.around = Surroundings()
        """As they were when they were last read."""
        self._by_model: dict[str | None, Surroundings] = {}
        self._read_at = float("-inf")
        self._refused = Counter[Refusal]()

    def admit(self, lane: Lane, model: str | None, haste: Haste) -> Procedure[Room]:
        """How many jobs may be before a new one on the lane of its model.

        Raises:
            QueueFull: there is no memory for it, however many.
        """
        yield from self.surroundings()
        around = self.around_of(model)
        if around.memory_fraction > FULL_FRACTIONS[lane]:
            situation = f"the broker's memory is {around.memory_fraction:.0%} full"
            raise self.counted(_full("memory", situation, _UNKNOWN_MEMORY_RETRY_SECONDS))
        return room(lane, around, haste, self._settings)

    def require_workers(self, model: str | None) -> Procedure[None]:
        """Refuse to ask where nobody is there to answer a job that names this model, or none.

        Raises:
            NoWorkers: nothing was accepted.
        """
        for max_age_seconds in (SURROUNDINGS_AGE_SECONDS, 0):
            yield from self.surroundings(max_age_seconds)
            if self.around_of(model).workers:
                return
        self._refused["no_workers"] += 1
        raise nobody_for(model, self.around.workers)

    def counted(self, refusal: QueueFull) -> QueueFull:
        """The refusal, which is counted by its reason in Redis as soon as that is asked again."""
        self._refused[refusal.details["reason"]] += 1
        return refusal

    def surroundings(self, max_age_seconds: float = SURROUNDINGS_AGE_SECONDS) -> Procedure[Surroundings]:
        """Workers, pace and memory, as of at most `max_age_seconds` ago; with them Redis's clock."""
        if time.monotonic() - self._read_at > max_age_seconds:
            self.around = yield from self._read()
            self._by_model, self._read_at = {}, time.monotonic()
        return self.around

    def around_of(self, model: str | None) -> Surroundings:
        """What jobs that name this model, or none, would meet, as of the last reading."""
        known = self._by_model.get(model)
        if known is None:
            known = self._by_model[model] = self.around.of(model)
        return known

    def _read(self) -> Procedure[Surroundings]:
        asked_at = time.monotonic()
        refused, self._refused = self._refused, Counter()
        now, beats, paces, memory, paused, *_ = yield from ask(
            ("TIME",),
            ("HGETALL", keys.WORKERS),
            ("HGETALL", keys.PACE),
            ("INFO", "memory"),
            ("HGETALL", keys.PAUSED),
            *(("HINCRBY", keys.TOTALS, of_refusal(reason), count) for reason, count in refused.items()),
        )
        self.clock.learn(accepted(now), asked_at)
        workers = alive_in(reply_or(beats, {}), reply_or(paces, {}), self.clock.now())
        limit_bytes = accepted(memory).get("maxmemory") or self._settings.max_broker_bytes
        return _around(workers, memory["used_memory"] / limit_bytes, orders_in(paused))


def known_models() -> Procedure[list[str]]:
    """The models that jobs may have named: those asked for in the last week, and those that are served."""
    named, beats = yield from ask(("ZRANGE", keys.MODELS, 0, -1), ("HGETALL", keys.WORKERS))
    if isinstance(named, ResponseError):  # something else lies there, or a user of before has no right to it
        named = []
    return heartbeats.known_models(named, reply_or(beats, {}))


def waiting() -> Procedure[dict[tuple[Lane, str | None], int]]:
    """Jobs that no worker has taken, by lane and the model that they name, if any.

    Those included that somebody sent with a priority; of models for which nothing waits nothing is said.
    """
    models = yield from known_models()
    lanes: list[tuple[Lane, str | None]] = [(lane, model) for model in (None, *models) for lane in LANES]
    lists = [[queue, *keys.priority_lists(queue)] for queue in keys.queues_of(models)]
    counts = yield from ask(*(("LLEN", key) for each in lists for key in each))
    lengths = iter([accepted(count) for count in counts])
    found = {at: sum(next(lengths) for _ in each) for at, each in zip(lanes, lists, strict=True)}
    return {(lane, model): jobs for (lane, model), jobs in found.items() if jobs or model is None}


def nobody_for(model: str | None, workers: Sequence[WorkerStatus]) -> NoWorkers:
    """What is told where none of these workers takes jobs that name this model, or none."""
    at = (
        -1 if model is not None and "@" in model else 0
    )  # whoever names a revision is told of those that there are
    served = ", ".join(sorted({worker.names[at] for worker in workers if worker.names}))
    if not workers:
        return NoWorkers(
            "no worker has been heard of in the last "
            f"{keys.HEARTBEAT_TTL_SECONDS} s; start one with `rerankq-worker`, or `submit` the job and let it wait"
        )
    if all(worker.is_draining for worker in workers):
        return NoWorkers(
            "all workers drain and take no more jobs; `rerankq resume WORKER` lets one take them again, or `submit` "
            "the job and let it wait"
        )
    if model is None:
        return NoWorkers(
            "no worker takes jobs that name no model (RERANKQ_SERVE_UNNAMED is false everywhere); name one of those "
            f"served: {served}"
        )
    return NoWorkers(
        f"no worker serves the model {shortened(model)}; served: {served or 'none'}; start one that does, or "
        "`submit` the job and let it wait"
    )


def shortened(model: str) -> str:
    """A model's name as it may be shown: whoever asked chose it."""
    return model if len(model) <= _SHOWN_CHARACTERS else f"{model[:_SHOWN_CHARACTERS]}…"


def _around(workers: tuple[WorkerStatus, ...], memory_fraction: float, pauses: Pauses) -> Surroundings:
    at_work = [worker for worker in workers if not worker.is_draining]
    return Surroundings(
        workers=workers,
        seconds_per_job=_by_lane(at_work, _together),
        job_seconds=_by_lane(at_work, statistics.mean),
        memory_fraction=memory_fraction,
        pauses=pauses,
    )


def _by_lane(workers: Sequence[WorkerStatus], of_all: Callable[[list[float]], float]) -> dict[str, float]:
    told = {lane: [w.seconds_per_job[lane] for w in workers if lane in w.seconds_per_job] for lane in LANES}
    return {lane: of_all(seconds) for lane, seconds in told.items() if seconds}


def _together(seconds_per_job: list[float]) -> float:
    return 1 / sum(1 / seconds for seconds in seconds_per_job)


def _full(reason: Refusal, situation: str, retry_after_seconds: float) -> QueueFull:
    return QueueFull(
        f"{situation}; try again in {math.ceil(retry_after_seconds)} s",
        {"retry_after_seconds": round(retry_after_seconds, 1), "reason": reason},
    )
