"""What Prometheus reads of one host: the names that alerts and dashboard speak of, true values, no user's text."""

import os
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from rerankq import RerankClient
from rerankq.contract import keys
from rerankq.contract.heartbeats import Heartbeats, WorkerStatus
from rerankq.contract.orders import Orders
from rerankq.settings import ClientSettings
from rerankq_worker.host import metrics
from rerankq_worker.host.devices import Device
from rerankq_worker.host.metrics import UNSERVED_MODELS, RedisMetrics
from rerankq_worker.link import health
from rerankq_worker.link.health import COUNTERS, EngineStatus
from rerankq_worker.settings import WorkerSettings
from tests.contract.test_heartbeats import STRANGE
from tests.deploy.test_monitoring import METRICS
from tests.redis_server import RedisServer, free_port

MARKER = "xylophonist"
OF_MODELS = ("model_jobs", "model_oldest_seconds", "model_workers")
OF_TOTALS = ("jobs", "pairs", "deliveries", "refusals", "job_wait_seconds", "job_seconds")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer(maxmemory="64mb") as server:
        yield server


@pytest.fixture(scope="module")
def runtime_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def url(redis_server: RedisServer, runtime_dir: Path) -> str:
    """Where the metrics of a host with two devices are served."""
    settings = WorkerSettings(
        broker_url=redis_server.url, runtime_dir=str(runtime_dir), metrics_port=free_port()
    )
    metrics.serve(settings, [Device("gpu0", ""), Device("gpu1", "")])
    return f"http://127.0.0.1:{settings.metrics_port}/metrics"


def scraped(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def families(url: str) -> list[Metric]:
    return list(text_string_to_metric_families(scraped(url)))


def samples(url: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(url)
        for sample in family.samples
    }


def value(url: str, name: str, **labels: str) -> float:
    return samples(url)[name, frozenset(labels.items())]


def report(runtime_dir: Path, **fields: object) -> None:
    known = {
        "state": "busy",
        "pid": os.getpid(),
        "device": "gpu0",
        "boot": "b",
        "heartbeat_monotonic": time.monotonic(),
    }
    health.write(runtime_dir / "gpu0.json", EngineStatus(**{**known, **fields}))  # type: ignore[arg-type]


def test_all_that_alerts_and_dashboard_speak_of_is_served(
    url: str, runtime_dir: Path, redis_server: RedisServer
) -> None:
    report(runtime_dir, waiting_rows={"bulk": 3}, model="double")
    worker = WorkerStatus(name="gpu0-bulk@host", state="ready", lanes=("interactive", "bulk"))
    Heartbeats(redis_server.client()).tell(worker)

    served = {(name, frozenset(label for label, _ in labels)) for name, labels in samples(url)}

    assert {(name, frozenset(labels)) for name, labels in METRICS.items()} <= served


def test_every_counter_of_an_engine_s_status_is_a_metric(url: str, runtime_dir: Path) -> None:
    counts = {counter: number + 0.5 for number, counter in enumerate(COUNTERS)}
    report(runtime_dir, **counts)

    seen = samples(url)

    gpu0 = ("device", "gpu0")
    assert {name: seen[f"rerankq_engine_{name}_total", frozenset([gpu0])] for name in counts} == counts
    assert seen["rerankq_engine_state", frozenset([gpu0, ("state", "busy")])] == 1
    assert seen["rerankq_engine_state", frozenset([gpu0, ("state", "ready")])] == 0


def test_an_engine_that_never_reported_is_down_rather_than_absent(url: str, runtime_dir: Path) -> None:
    report(runtime_dir)

    assert value(url, "rerankq_engine_up", device="gpu0") == 1
    assert value(url, "rerankq_engine_up", device="gpu1") == 0


def test_a_dead_engine_is_broken_whatever_its_last_words_were(url: str, runtime_dir: Path) -> None:
    report(runtime_dir, pid=2**22 - 1)

    assert value(url, "rerankq_engine_up", device="gpu0") == 0
    assert value(url, "rerankq_engine_state", device="gpu0", state="broken") == 1


def test_a_waiting_job_is_counted_and_aged_without_a_word_of_it(url: str, redis_server: RedisServer) -> None:
    with RerankClient(settings=ClientSettings(broker_url=redis_server.url)) as client:
        client.submit(MARKER, [f"{MARKER} {number}" for number in range(3)], lane="bulk")
    time.sleep(0.1)

    assert value(url, "rerankq_lane_jobs", lane="bulk") == 1
    assert value(url, "rerankq_lane_oldest_seconds", lane="bulk") >= 0.1
    assert value(url, "rerankq_lane_oldest_seconds", lane="interactive") == 0
    assert MARKER not in scraped(url)


def test_a_job_that_names_a_model_counts_and_ages_in_its_lane(url: str, redis_server: RedisServer) -> None:
    counted = value(url, "rerankq_lane_jobs", lane="interactive")
    with RerankClient(settings=ClientSettings(broker_url=redis_server.url)) as client:
        client.submit("q", ["a"], model="org/name")
    time.sleep(0.1)

    assert value(url, "rerankq_lane_jobs", lane="interactive") == counted + 1
    assert value(url, "rerankq_lane_oldest_seconds", lane="interactive") >= 0.1
    redis_server.client().delete(keys.queue_of("interactive", "org/name"))


@pytest.fixture
def asked_of_models(redis_server: RedisServer) -> Iterator[None]:
    """One job for a model that a worker serves, one each for more models that nobody does than are told apart."""
    redis = redis_server.client()
    redis.flushall()
    worker = WorkerStatus(name="w@h", state="ready", lanes=("bulk",), model="org/name", revision="7")
    Heartbeats(redis).tell(replace(worker, serves_unnamed=False))
    unserved = [f"{MARKER}-{number}" for number in range(UNSERVED_MODELS + 5)]
    with RerankClient(settings=ClientSettings(broker_url=redis_server.url)) as client:
        for model in ["org/name@7", *unserved, MARKER, MARKER]:
            client.submit("q", ["a"], lane="bulk", model=model)
    yield
    redis.flushall()


@pytest.mark.usefixtures("asked_of_models")
@pytest.mark.parametrize("at_once", [7, metrics.QUEUES_AT_ONCE])
def test_jobs_are_counted_by_model_and_one_that_nobody_serves_is_told_by_its_digest(
    url: str, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(metrics, "QUEUES_AT_ONCE", at_once)
    seen = samples(url)

    def of(name: str, **labels: str) -> float | None:
        return seen.get((f"rerankq_model_{name}", frozenset(labels.items())))

    assert [of("jobs", lane="bulk", model=model) for model in ("-", "org/name", "org/name@7")] == [0, 0, 1]
    assert [of("workers", model=model) for model in ("-", "org/name", "org/name@7")] == [0, 1, 1]
    lost = keys.digest_of(MARKER)
    assert (of("jobs", lane="bulk", model=lost), of("workers", model=lost)) == (2, 0)
    assert (of("oldest_seconds", lane="bulk", model=lost) or 0) > 0
    told_apart = {labels for name, labels in seen if name == "rerankq_model_workers"}
    assert len(told_apart) == 3 + UNSERVED_MODELS
    assert value(url, "rerankq_lane_jobs", lane="bulk") == 1 + UNSERVED_MODELS + 5 + 2
    assert MARKER not in scraped(url)


@pytest.mark.usefixtures("asked_of_models")
def test_a_lane_that_is_paused_and_models_that_are_paused_in_it_are_told_apart(
    url: str, redis_server: RedisServer
) -> None:
    orders = Orders(redis_server.client())
    for model in ("org/name@7", MARKER):
        orders.pause("bulk", model, "somebody")
    redis_server.client().hset(keys.PAUSED, mapping={"bulk@0123456789ab": "what is that", "strange": "{}"})
    orders.pause("interactive", None, "somebody")

    told = {labels: seconds for (name, labels), seconds in samples(url).items() if "paused" in name}

    def of(lane: str, model: str) -> frozenset[tuple[str, str]]:
        return frozenset({("lane", lane), ("model", model)})

    paused = {of("bulk", model) for model in ("org/name@7", keys.digest_of(MARKER), "0123456789ab")}
    assert {labels for labels, seconds in told.items() if seconds} == {*paused, of("interactive", "-")}
    assert [labels for labels, seconds in told.items() if not seconds] == [of("bulk", "-")]


@pytest.mark.parametrize("model", [None, "org/name"])
def test_jobs_with_a_priority_are_counted_among_those_that_wait(
    url: str, redis_server: RedisServer, model: str | None
) -> None:
    redis = redis_server.client()
    redis.flushall()
    queue = keys.queue_of("bulk", model)
    redis.zadd(keys.MODELS, {"org/name": 1})
    for at in (queue, *keys.priority_lists(queue)):
        redis.lpush(at, "a job")

    assert value(url, "rerankq_lane_jobs", lane="bulk") == 1 + 2 * 9
    redis.flushall()


def test_a_message_that_nobody_can_read_does_not_stop_the_metrics(
    url: str, redis_server: RedisServer
) -> None:
    redis_server.client().rpush("rerankq.interactive", b"\x80\x04 no json")

    assert value(url, "rerankq_lane_jobs", lane="interactive") == 1
    assert ("rerankq_lane_oldest_seconds", frozenset({("lane", "interactive")})) not in samples(url)


@pytest.mark.parametrize("key", [keys.WORKERS, keys.PACE])
@pytest.mark.parametrize("told", STRANGE)
def test_a_strange_heartbeat_leaves_the_other_workers_counted(
    url: str, redis_server: RedisServer, key: str, told: bytes
) -> None:
    redis = redis_server.client()
    Heartbeats(redis).tell(WorkerStatus(name="ours@host", state="stuck", lanes=("bulk",)))
    redis.hset(key, "other@host", told)

    assert value(url, "rerankq_workers", state="stuck") == 1


def test_the_limit_of_the_broker_is_told_beside_its_memory(url: str) -> None:
    assert value(url, "rerankq_broker_memory_limit_bytes") == 64 * 1024 * 1024
    assert value(url, "rerankq_broker_memory_bytes") > 0


def test_a_key_of_another_type_hides_its_own_series_and_says_so(url: str, redis_server: RedisServer) -> None:
    redis = redis_server.client()
    redis.delete("rerankq.interactive")
    errors = value(url, "rerankq_scrape_errors_total", part="interactive jobs")
    redis.set("rerankq.interactive", "no list")
    try:
        seen = samples(url)
    finally:
        redis.delete("rerankq.interactive")

    def lane(name: str) -> tuple[str, frozenset[tuple[str, str]]]:
        return "rerankq_lane_jobs", frozenset({("lane", name)})

    assert lane("interactive") not in seen
    assert lane("bulk") in seen
    assert seen["rerankq_scrape_errors_total", frozenset({("part", "interactive jobs")})] == errors + 1
    assert value(url, "rerankq_lane_jobs", lane="interactive") == 0


@pytest.mark.parametrize(
    ("refused", "parts", "hidden"),
    [
        ("llen", {"interactive jobs", "bulk jobs", "models"}, {"lane_jobs", *OF_MODELS}),
        (
            "lindex",
            {"oldest interactive job", "oldest bulk job", "models"},
            {"lane_oldest_seconds", *OF_MODELS},
        ),
        ("hkeys", {"held jobs"}, {"unacked_jobs", "held_jobs"}),
        ("zcard", {"dead letters"}, {"dead_letters"}),
        (
            "hgetall",
            {"workers", "models", "totals", "paused lanes"},
            {"workers", "lost_workers", "lane_paused_seconds", *OF_MODELS, *OF_TOTALS},
        ),
        (
            "info",
            {"memory", "risks of broker"},
            {"broker_memory_bytes", "broker_memory_limit_bytes", "redis_risk"},
        ),
    ],
)
def test_a_command_that_is_refused_hides_what_needs_it_and_no_more(
    redis_server: RedisServer, refused: str, parts: set[str], hidden: set[str]
) -> None:
    everything = _parts(RedisMetrics({"broker": redis_server.client()}))
    redis_server.client().execute_command(
        "ACL", "SETUSER", "few", "on", "nopass", "~*", "+@all", f"-{refused}"
    )
    scrape = RedisMetrics({"broker": redis_server.client(username="few", password="any")})

    seen = _parts(scrape)

    assert {part for part, count in _errors(scrape).items() if count} == parts
    assert everything - seen == {f"rerankq_{name}" for name in hidden}


def _parts(scrape: RedisMetrics) -> set[str]:
    """The metrics of a scrape that have a value."""
    return {family.name for family in scrape.collect() if family.samples}


def _errors(scrape: RedisMetrics) -> dict[str, float]:
    """How often each part was not read, this scrape included."""
    families = {family.name: family for family in scrape.collect()}
    return {sample.labels["part"]: sample.value for sample in families["rerankq_scrape_errors"].samples}


def test_a_redis_that_is_away_leaves_the_engines_to_be_seen(url: str, redis_server: RedisServer) -> None:
    redis_server.freeze()
    try:
        seen = samples(url)
    finally:
        redis_server.thaw()

    assert ("rerankq_engine_up", frozenset({("device", "gpu0")})) in seen
    assert not any(name.startswith("rerankq_lane") for name, _ in seen)
