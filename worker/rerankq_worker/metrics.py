"""Prometheus metrics of one host's engines and of the lanes in Redis, read when they are asked for.

Engines come from their status files, lanes from Redis; what cannot be read is left out of the answer, and
`rerankq_engine_up` or an absent series says so. No label and no value holds a user's text. Knows no torch.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import orjson
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from rerankq.contract import keys
from rerankq.contract.broker import queue_of
from rerankq.contract.dead_letters import DeadLetters
from rerankq.contract.errors import InvalidSettings
from rerankq.contract.messages import LANES, Lane
from rerankq.contract.stores import redis_client
from rerankq_worker import health
from rerankq_worker.health import EngineStatus, State
from rerankq_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

REDIS_TIMEOUT_SECONDS = 1.0  # a scrape must not hang; Prometheus itself gives up after 10 s
STATES: tuple[State, ...] = get_args(State)
ENGINE_COUNTERS = {
    "pairs": "Query-document pairs scored.",
    "tokens": "Tokens of scored pairs.",
    "batches": "Forward passes.",
    "busy_seconds": "Time in forward passes.",
    "out_of_memory": "Batches that did not fit.",
    "refused_jobs": "Jobs that could not be scored even alone.",
    "starts": "Starts of the engine process.",
}


def serve(settings: WorkerSettings, devices: Sequence[str]) -> None:
    """Answer scrapes from a thread of this process from now on.

    Raises:
        InvalidSettings: the port cannot be had.
    """
    registry = CollectorRegistry()
    registry.register(EngineMetrics(settings.runtime_path, devices))
    registry.register(
        LaneMetrics(redis_client(settings.broker_url.get_secret_value(), REDIS_TIMEOUT_SECONDS))
    )
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
        yield self._up(statuses)
        yield _states(statuses.values())
        for name, what in ENGINE_COUNTERS.items():
            counter = CounterMetricFamily(f"rerankq_engine_{name}", what, labels=["device"])
            for status in statuses.values():
                counter.add_metric([status.device], getattr(status, name))
            yield counter
        yield _speed(statuses.values())
        yield _waiting(statuses.values())

    def _up(self, statuses: dict[str, EngineStatus]) -> Metric:
        up = GaugeMetricFamily("rerankq_engine_up", "1: the engine is in service.", labels=["device"])
        for device in self._devices:
            status = statuses.get(device)
            up.add_metric([device], float(status is not None and status.state in health.IN_SERVICE))
        return up


class LaneMetrics(Collector):
    """What waits in Redis, and who is there to take it. Every launcher reports the same: take the max."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    def collect(self) -> Iterator[Metric]:
        """All metrics of the queue, freshly read; none when Redis does not answer."""
        try:
            yield from list(self._read())
        except RedisError as error:
            log.warning("metrics: Redis was not read (%s)", type(error).__name__)

    def _read(self) -> Iterator[Metric]:
        yield from _lanes(self._redis)
        yield _gauge(
            "rerankq_unacked_jobs", "Jobs that a worker holds.", _number(self._redis.hlen("unacked"))
        )
        yield _gauge("rerankq_dead_letters", "Jobs set aside.", DeadLetters(self._redis).count())
        yield _workers(self._redis)
        memory: Any = self._redis.info("memory")
        yield _gauge("rerankq_broker_memory_bytes", "Memory that Redis uses.", memory["used_memory"])
        yield _gauge("rerankq_broker_memory_limit_bytes", "Its maxmemory; 0: none.", memory["maxmemory"])


def _states(statuses: Iterable[EngineStatus]) -> Metric:
    told = GaugeMetricFamily(
        "rerankq_engine_state", "1 for the engine's present state.", labels=["device", "state"]
    )
    for status in statuses:
        for state in STATES:
            told.add_metric([status.device, state], float(status.state == state))
    return told


def _speed(statuses: Iterable[EngineStatus]) -> Metric:
    speed = GaugeMetricFamily(
        "rerankq_engine_pairs_per_second", "Of late, while the device was at work.", labels=["device"]
    )
    for status in statuses:
        speed.add_metric([status.device], status.pairs_per_second)
    return speed


def _waiting(statuses: Iterable[EngineStatus]) -> Metric:
    waiting = GaugeMetricFamily(
        "rerankq_engine_waiting_rows",
        "Rows at the engine that no batch has taken.",
        labels=["device", "lane"],
    )
    for status in statuses:
        for lane, rows in status.waiting_rows.items():
            waiting.add_metric([status.device, lane], rows)
    return waiting


def _lanes(redis: "Redis") -> Iterator[Metric]:
    jobs = GaugeMetricFamily("rerankq_lane_jobs", "Jobs that wait.", labels=["lane"])
    oldest = GaugeMetricFamily("rerankq_lane_oldest_seconds", "Age of the next job in line.", labels=["lane"])
    for lane in LANES:
        jobs.add_metric([lane], _number(redis.llen(queue_of(lane))))
        age_seconds = _age_of_the_next(redis, lane)
        if age_seconds is not None:
            oldest.add_metric([lane], age_seconds)
    yield jobs
    yield oldest


def _age_of_the_next(redis: "Redis", lane: Lane) -> float | None:
    """0 when nothing waits; None when its producer has left no record."""
    message: Any = redis.lindex(queue_of(lane), -1)
    if message is None:
        return 0.0
    try:
        job_id = orjson.loads(message)["headers"]["id"]
    except (ValueError, TypeError, KeyError):
        return None
    submitted: Any = redis.hget(keys.job(str(job_id)), "submitted")
    now: Any = redis.time()
    return None if submitted is None else max(now[0] - float(submitted), 0.0)


def _workers(redis: "Redis") -> Metric:
    """Heartbeats younger than a dead worker's."""
    beats: Any = redis.hvals(keys.WORKERS)
    now: Any = redis.time()
    alive = [beat for beat in map(orjson.loads, beats) if now[0] - beat["seen"] <= keys.HEARTBEAT_TTL_SECONDS]
    count = GaugeMetricFamily("rerankq_workers", "Celery workers heard of lately.", labels=["state"])
    for state in STATES:
        count.add_metric([state], sum(beat["state"] == state for beat in alive))
    return count


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=value)


def _number(reply: Any) -> float:
    return float(reply)  # redis-py types every reply as perhaps awaitable
