"""Prometheus metrics of one host's engines and of the lanes in Redis, read when they are asked for.

Engines come from their status files, lanes from Redis; what cannot be read is left out of the answer, and
`rerankq_engine_up` or an absent series says so. No label and no value holds a user's text: a model that requests alone
name is told by its digest. Knows no torch.
"""

import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, get_args

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from redis import Redis
from redis.exceptions import ConnectionError, TimeoutError

from rerankq.contract import keys
from rerankq.contract.errors import InvalidSettings
from rerankq.contract.heartbeats import Heartbeats
from rerankq.contract.keys import queue_of
from rerankq.contract.messages import LANES, Lane
from rerankq.contract.orders import Orders
from rerankq.contract.redis_clients import number_in
from rerankq.contract.release import VERSION
from rerankq.contract.risks import RISKS, read_risks, redis_clients
from rerankq.contract.totals import BOUNDS_SECONDS, Histogram, totals_in
from rerankq.contract.transport.dead_letters import DeadLetters
from rerankq.contract.transport.envelope import Undecodable, job_id, open_envelope
from rerankq.contract.transport.leases import held_by_list, waiting_on
from rerankq_worker.host.devices import Device
from rerankq_worker.host.gpus import GPU_GAUGES, gpu_readings
from rerankq_worker.link import health
from rerankq_worker.link.health import EngineStatus, State
from rerankq_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

REDIS_TIMEOUT_SECONDS = 1.0  # a scrape must not hang; Prometheus itself gives up after 10 s
UNSERVED_MODELS = 50  # told apart, those with most jobs first: whoever asks names what he likes
QUEUES_AT_ONCE = 500
UNNAMED = "-"
STATES: tuple[State, ...] = get_args(State)
STATES_OF_DRAINING = ("draining", "drained")
BUCKETS = [*map(floatToGoString, BOUNDS_SECONDS), "+Inf"]
Sample = tuple[str, list[str], float]
"""Name, values of its labels, value."""
Reading = Sample | Metric
ENGINE_GAUGES: Mapping[str, tuple[str, list[str]]] = {
    "rerankq_engine_up": ("1: the engine is in service.", ["device"]),
    "rerankq_engine_state": ("1 for the engine's present state.", ["device", "state"]),
    "rerankq_engine_pairs_per_second": ("Of late, while the device was at work.", ["device"]),
    "rerankq_engine_waiting_rows": ("Rows at the engine that no batch has taken.", ["device", "lane"]),
    "rerankq_build_info": (
        "1: what a device serves, and as which release.",
        ["device", "version", "model", "revision", "dtype", "engine"],
    ),
}
GAUGES: Mapping[str, tuple[str, list[str]]] = {
    "rerankq_lane_jobs": ("Jobs that wait.", ["lane"]),
    "rerankq_lane_oldest_seconds": ("Age of the next job in line.", ["lane"]),
    "rerankq_lane_paused_seconds": (
        "Since an operator paused it, `-`, or of it the jobs that name this model; 0: not.",
        ["lane", "model"],
    ),
    "rerankq_model_jobs": ("Of the lane's jobs, those that name this model; `-`: none.", ["lane", "model"]),
    "rerankq_model_oldest_seconds": ("Age of the next of them in line.", ["lane", "model"]),
    "rerankq_model_workers": ("Celery workers that take jobs that name it.", ["model"]),
    "rerankq_unacked_jobs": ("Jobs that a worker holds.", []),
    "rerankq_held_jobs": ("Jobs of the lane that a worker holds.", ["lane"]),
    "rerankq_dead_letters": ("Jobs set aside.", []),
    "rerankq_workers": ("Celery workers heard of lately.", ["state"]),
    "rerankq_lost_workers": ("Celery workers that fell silent in the last hour and took no leave.", []),
    "rerankq_broker_memory_bytes": ("Memory that Redis uses.", []),
    "rerankq_broker_memory_limit_bytes": ("Its maxmemory; 0: none.", []),
    "rerankq_redis_risk": ("1: this Redis may lose what it holds.", ["store", "risk"]),
    **GPU_GAUGES,
}


def serve(settings: WorkerSettings, devices: Sequence[Device]) -> None:
    """Answer scrapes from a thread of this process from now on.

    Raises:
        InvalidSettings: the port cannot be had.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)  # since when it runs: how often a container was started anew
    registry.register(EngineMetrics(settings.runtime_path, [device.name for device in devices]))
    others = {"gpus": partial(gpu_readings, devices)}
    registry.register(RedisMetrics(redis_clients(settings, REDIS_TIMEOUT_SECONDS), others))
    address = f"{settings.metrics_host}:{settings.metrics_port}"
    try:
        start_http_server(settings.metrics_port or 0, settings.metrics_host, registry)
    except OSError as error:
        raise InvalidSettings(
            f"metrics cannot be served at {address} ({error.strerror}); set another RERANKQ_METRICS_PORT"
        ) from error
    log.info("metrics: http://%s/metrics", address)


class EngineMetrics(Collector):
    """What the engines say of themselves."""

    def __init__(self, runtime_dir: Path, devices: Sequence[str]) -> None:
        """`devices` are reported even when their engine is away."""
        self._runtime_dir = runtime_dir
        self._devices = devices

    def collect(self) -> Iterator[Metric]:
        """All engine metrics, freshly read."""
        statuses = {status.device: status for status in health.engines(self._runtime_dir)}
        yield from _gauges(ENGINE_GAUGES, self._samples(statuses))
        for name, what in health.COUNTERS.items():
            counter = CounterMetricFamily(f"rerankq_engine_{name}", what, labels=["device"])
            for status in statuses.values():
                counter.add_metric([status.device], getattr(status, name))
            yield counter

    def _samples(self, statuses: dict[str, EngineStatus]) -> Iterator[Sample]:
        in_service = [device for device, status in statuses.items() if status.state in health.IN_SERVICE]
        for device in self._devices:
            yield "rerankq_engine_up", [device], float(device in in_service)
        for device, status in statuses.items():
            for state in STATES:
                yield "rerankq_engine_state", [device, state], float(status.state == state)
            yield "rerankq_engine_pairs_per_second", [device], status.pairs_per_second
            if status.model:  # it is loaded
                served = [status.model, status.revision, status.dtype, status.engine]
                yield "rerankq_build_info", [device, VERSION, *served], 1
            for lane, rows in status.waiting_rows.items():
                yield "rerankq_engine_waiting_rows", [device, lane], rows


class RedisMetrics(Collector):
    """What waits in Redis, who is there to take it, what became of all there was, and how Redis is.

    Every launcher reports the same: take the max.
    """

    def __init__(
        self,
        stores: Mapping[str, "Redis"],
        others: Mapping[str, Callable[[], Iterable[Reading]]] | None = None,
    ) -> None:
        """`others` are parts of a scrape that are read in the same way, and are no matter of Redis."""
        broker = stores["broker"]
        self._readings = {**(others or {})}
        self._readings |= {part: partial(read, broker) for part, read in READINGS.items()}
        for store, redis in stores.items():
            self._readings[f"risks of {store}"] = partial(_risks, store, redis)
        self._errors = dict.fromkeys(self._readings, 0)

    def collect(self) -> Iterator[Metric]:
        """All metrics of the queue, freshly read; what cannot be read is left out, counted and said."""
        told = list(self._read())
        samples = (each for each in told if not isinstance(each, Metric))
        yield from (gauge for gauge in _gauges(GAUGES, samples) if gauge.samples)
        yield from (each for each in told if isinstance(each, Metric))
        errors = CounterMetricFamily(
            "rerankq_scrape_errors", "Parts of a scrape that could not be read.", labels=["part"]
        )
        for part, count in self._errors.items():
            errors.add_metric([part], count)
        yield errors

    def _read(self) -> Iterator[Reading]:
        away: Exception | None = None
        for part, read in self._readings.items():
            try:
                if away is not None:
                    raise away  # each part would wait for its time-out, and the scrape for all of them
                yield from list(read())
            except Exception as error:  # noqa: BLE001 - the boundary: a part hides its own series and no other
                if isinstance(error, ConnectionError | TimeoutError):
                    away = error
                self._errors[part] += 1
                log.warning("metrics: %s not read: %s", part, type(error).__name__)


def _gauges(
    known: Mapping[str, tuple[str, list[str]]], samples: Iterable[Sample]
) -> Iterable[GaugeMetricFamily]:
    gauges = {name: GaugeMetricFamily(name, what, labels=labels) for name, (what, labels) in known.items()}
    for name, labels, value in samples:
        gauges[name].add_metric(labels, value)
    return gauges.values()


def _waiting_jobs(lane: Lane, redis: "Redis") -> Iterator[Sample]:
    yield "rerankq_lane_jobs", [lane], sum(_lengths(_queues_of(lane, redis), redis))


def _lengths(queues: Sequence[str], redis: "Redis") -> list[int]:
    """Jobs that wait on each, those of any priority included."""
    return [jobs for some in _some_at_a_time(queues) for jobs in waiting_on(redis, some)]


def _oldest_job(lane: Lane, redis: "Redis") -> Iterator[Sample]:
    ages = _ages(_queues_of(lane, redis), redis)
    known = [age for age in ages if age is not None]
    if len(known) == len(ages) or any(known):
        yield "rerankq_lane_oldest_seconds", [lane], max(known)


def _ages(queues: Sequence[str], redis: "Redis") -> list[float | None]:
    """Since the next job in line of each was submitted; 0 where nothing waits, None where its sender kept no record."""
    return [age for some in _some_at_a_time(queues) for age in _ages_of_some(some, redis)]


def _ages_of_some(queues: Sequence[str], redis: "Redis") -> Iterator[float | None]:
    pipeline = redis.pipeline(transaction=False)
    for queue in queues:
        pipeline.lindex(queue, -1)
    messages: list[bytes | None] = pipeline.execute()
    for message in messages:
        pipeline.hget(keys.job(_job_in(message) or ""), "submitted")
    pipeline.time()
    *told, (seconds, microseconds) = pipeline.execute()
    for message, submitted in zip(messages, map(number_in, told), strict=True):
        age = None if submitted is None else max(seconds + microseconds / 1e6 - submitted, 0.0)
        yield 0.0 if message is None else age


def _some_at_a_time(queues: Sequence[str]) -> Iterator[Sequence[str]]:
    """So many that neither Redis nor this process is busy with them for long: callers name models as they like."""
    return (queues[at : at + QUEUES_AT_ONCE] for at in range(0, len(queues), QUEUES_AT_ONCE))


def _models(redis: "Redis") -> Iterator[Sample]:
    """The lists of each model, told by a name that a worker serves or else by its digest."""
    heartbeats = Heartbeats(redis)
    workers = heartbeats.alive()
    serving = Counter(name for worker in workers for name in worker.names)
    names = [*serving, *_unserved(heartbeats.models(), serving, redis)]
    labels = {name: _label(name, serving) for name in (None, *names)}
    yield "rerankq_model_workers", [UNNAMED], sum(worker.serves_unnamed for worker in workers)
    for name in names:
        yield "rerankq_model_workers", [labels[name]], serving[name]
    for lane in LANES:
        queues = [queue_of(lane, name) for name in labels]
        found = zip(labels.values(), _lengths(queues, redis), _ages(queues, redis), strict=True)
        for label, jobs, age in found:
            yield "rerankq_model_jobs", [lane, label], jobs
            if age is not None:
                yield "rerankq_model_oldest_seconds", [lane, label], age


def _label(model: str | None, served: Container[str]) -> str:
    if model is None:
        return UNNAMED
    return model if model in served else keys.digest_of(model)


def _unserved(models: Iterable[str], serving: Container[str], redis: "Redis") -> list[str]:
    """The models that nobody serves and jobs wait for, of which most wait first; no more than can be shown."""
    names = [name for name in models if name not in serving]
    lengths = _lengths([queue_of(lane, name) for name in names for lane in LANES], redis)
    waiting = {name: sum(lengths[at * len(LANES) :][: len(LANES)]) for at, name in enumerate(names)}
    by_most = sorted(waiting, key=lambda name: -waiting[name])
    return [name for name in by_most[:UNSERVED_MODELS] if waiting[name]]


def _job_in(message: bytes | None) -> str | None:
    try:
        return None if message is None else job_id(open_envelope(message))
    except Undecodable:
        return None


def _queues_of(lane: Lane, redis: "Redis") -> list[str]:
    """Of the jobs that name no model, and of each model that jobs name."""
    return [queue_of(lane, model) for model in (None, *Heartbeats(redis).models())]


def _held_jobs(redis: "Redis") -> Iterator[Sample]:
    held = Counter[str]()
    for list_key, jobs in held_by_list(redis).items():
        held[keys.lane_of(list_key)] += jobs
    yield "rerankq_unacked_jobs", [], held.total()
    for lane in LANES:
        yield "rerankq_held_jobs", [lane], held[lane]


def _totals(redis: "Redis") -> Iterator[Metric]:
    """What was counted since this Redis began: a series for each name that there is, be it 0."""
    told: Any = redis.hgetall(keys.TOTALS)
    totals = totals_in(told)
    jobs = CounterMetricFamily("rerankq_jobs", "Jobs that ended, and how.", labels=["lane", "outcome"])
    for (lane, outcome), count in totals.jobs.items():
        jobs.add_metric([lane, outcome], count)
    yield jobs
    yield _counter("pairs", "Query-document pairs in rankings.", "lane", totals.pairs)
    yield _counter("deliveries", "Messages handed to workers, and why.", "cause", totals.deliveries)
    yield _counter("refusals", "Jobs that clients did not send, and why.", "reason", totals.refusals)
    yield _histogram("job_wait", "From submission until the attempt that ranked began.", totals.waits)
    yield _histogram("job", "From submission until the ranking was stored.", totals.times)


def _counter(name: str, what: str, label: str, counts: Mapping[Any, int]) -> Metric:
    counter = CounterMetricFamily(f"rerankq_{name}", what, labels=[label])
    for value, count in counts.items():
        counter.add_metric([value], count)
    return counter


def _histogram(name: str, what: str, by_lane: Mapping[Lane, Histogram]) -> Metric:
    family = HistogramMetricFamily(f"rerankq_{name}_seconds", what, labels=["lane"])
    for lane, histogram in by_lane.items():
        cumulative = zip(BUCKETS, accumulate(histogram.counts), strict=True)
        family.add_metric([lane], list(cumulative), histogram.sum_seconds)
    return family


def _dead_letters(redis: "Redis") -> Iterator[Sample]:
    yield "rerankq_dead_letters", [], DeadLetters(redis).count()


def _workers(redis: "Redis") -> Iterator[Sample]:
    states = Counter(worker.state for worker in Heartbeats(redis).alive())
    for state in (*STATES, *STATES_OF_DRAINING):
        yield "rerankq_workers", [state], states[state]
    yield "rerankq_lost_workers", [], Heartbeats(redis).lost()


def _paused_lanes(redis: "Redis") -> Iterator[Sample]:
    """A lane always, and of it the models that are paused by themselves, named as those of the lists are."""
    paused = Orders(redis).paused()
    served = {name for worker in Heartbeats(redis).alive() for name in worker.names}
    seconds, _ = redis.time()  # pyright: ignore[reportGeneralTypeIssues] - redis-py
    told = {(lane, UNNAMED): 0.0 for lane in LANES}
    for field, order in paused.items():
        lane, _, digest = field.partition(keys.MODEL_MARK)
        model = _label(order.model, served) if order.model else digest or UNNAMED
        if lane in LANES:
            told[lane, model] = max(seconds - order.since, 1.0)
    for labels, for_seconds in told.items():
        yield "rerankq_lane_paused_seconds", [*labels], for_seconds


def _memory(redis: "Redis") -> Iterator[Sample]:
    memory: Any = redis.info("memory")
    yield "rerankq_broker_memory_bytes", [], memory["used_memory"]
    yield "rerankq_broker_memory_limit_bytes", [], memory["maxmemory"]


def _risks(store: str, redis: "Redis") -> Iterator[Sample]:
    found = {risk.name for risk in read_risks(redis)}
    for risk in RISKS:
        yield "rerankq_redis_risk", [store, risk], float(risk in found)


READINGS: Mapping[str, Callable[["Redis"], Iterator[Reading]]] = {
    **{f"{lane} jobs": partial(_waiting_jobs, lane) for lane in LANES},
    **{f"oldest {lane} job": partial(_oldest_job, lane) for lane in LANES},
    "models": _models,
    "held jobs": _held_jobs,
    "totals": _totals,
    "dead letters": _dead_letters,
    "workers": _workers,
    "paused lanes": _paused_lanes,
    "memory": _memory,
}
"""The parts of a scrape of the broker, each read by itself."""
