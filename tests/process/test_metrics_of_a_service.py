"""Every metric has its true value, scraped from a real worker: idle, at work, through with it, alive once more."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rerankq.contract.errors import RerankError
from rerankq.contract.messages import Ranking
from rerankq.contract.orders import Orders
from rerankq.contract.release import VERSION
from tests.deploy.test_monitoring import METRICS
from tests.redis_server import RedisServer, free_port
from tests.service import Service
from tests.witness import token_of

BATCH_SECONDS = 0.4
BATCH_PAIRS = 4
DOCUMENTS = 24
DEAD_LETTER_TTL_SECONDS = 3600
TOO_LARGE = "zanzibarium"
PORT = free_port()

Sample = tuple[str, frozenset[tuple[str, str]]]
Samples = dict[Sample, float]


@dataclass(slots=True, repr=False)
class Seen:
    """What was scraped when, and what is known to be true of it."""

    idle: Samples
    at_work: Samples
    through: Samples
    restarted: Samples
    rankings: list[Ranking]
    log: str
    workers: str
    workers_json: str
    dead_letter_ttls: set[int]
    """Seconds to live of all that is kept of a dead letter."""


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    double = f"batch_ms={BATCH_SECONDS * 1000:g}&out_of_memory={token_of(TOO_LARGE)}"
    with Service(
        engine=f"tests.witness:engine?{double}",
        redis=RedisServer(maxmemory="64mb", maxmemory_policy="volatile-lru"),
        metrics_port=PORT,
        max_batch_pairs=BATCH_PAIRS,
        dead_letter_ttl_seconds=DEAD_LETTER_TTL_SECONDS,
    ) as service:
        idle = _when(  # the parts of a scrape are read one after the other
            service,
            lambda now: (
                _of(now, "rerankq_workers", state="ready")
                == 2
                == _of(now, "rerankq_model_workers", model="double")
            ),
        )
        jobs = [service.client.submit(f"q{n}", _documents(), lane="bulk") for n in range(2)]
        at_work = _when(
            service, lambda now: bool(_of(now, "rerankq_engine_waiting_rows", device="cpu0", lane="bulk"))
        )
        rankings = [job.result(60) for job in jobs]
        _set_aside_and_refuse(service)
        with service.redis.client() as redis:
            Orders(redis).pause("interactive", None, "somebody")
        through = _when(
            service,
            lambda now: (
                _of(now, "rerankq_engine_refused_jobs_total", device="cpu0")
                == 1
                == _of(now, "rerankq_dead_letters")
            ),
        )
        service.kill(service.engine())
        restarted = _when(service, lambda now: _of(now, "rerankq_engine_starts_total", device="cpu0") == 2)
        said = [service.log(), _rerankq(service, "workers"), _rerankq(service, "workers", "--json")]
        with service.redis.client() as client:
            ttls = {client.ttl(key) for key in client.keys("rerankq:dead:*")}
        yield Seen(idle, at_work, through, restarted, rankings, *said, ttls)


def _documents() -> list[str]:
    return [f"document {number}" for number in range(DOCUMENTS)]


def _rerankq(service: Service, *words: str) -> str:
    command = [sys.executable, "-m", "rerankq.cli", *words]
    environment = {**service.environment, "RERANKQ_REDIS_TIMEOUT_SECONDS": "10", "COLUMNS": "120"}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def _set_aside_and_refuse(service: Service) -> None:
    """One message that is none, one job that does not fit even alone."""
    with service.redis.client() as client:
        client.lpush("rerankq.bulk", b"no message at all")
    with pytest.raises(RerankError):
        service.client.submit("q", [TOO_LARGE]).result(60)


def scraped() -> Samples:
    return scraped_at(PORT)


def scraped_at(port: int) -> Samples:
    """What a launcher tells at this port, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _when(service: Service, is_so: Callable[[Samples], bool]) -> Samples:
    """The first scrape of which it is true."""
    latest: list[Samples] = []

    def look() -> bool:
        latest[:] = [scraped()]
        return is_so(latest[0])

    service.wait_until(look)
    return latest[0]


def _of(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


TRUTHS: dict[str, Callable[[Seen], bool]] = {
    "rerankq_lane_jobs": lambda seen: (
        _of(seen.idle, "rerankq_lane_jobs", lane="bulk") == 0
        and _of(seen.at_work, "rerankq_lane_jobs", lane="bulk") == 1
        and _of(seen.at_work, "rerankq_lane_jobs", lane="interactive") == 0
    ),
    "rerankq_lane_oldest_seconds": lambda seen: (
        _of(seen.idle, "rerankq_lane_oldest_seconds", lane="bulk") == 0
        and 0 < (_of(seen.at_work, "rerankq_lane_oldest_seconds", lane="bulk") or 0) < 60
        and _of(seen.at_work, "rerankq_lane_oldest_seconds", lane="interactive") == 0
    ),
    "rerankq_lane_paused_seconds": lambda seen: (
        _of(seen.idle, "rerankq_lane_paused_seconds", lane="interactive", model="-") == 0
        and 0 < (_of(seen.through, "rerankq_lane_paused_seconds", lane="interactive", model="-") or 0) < 60
        and _of(seen.through, "rerankq_lane_paused_seconds", lane="bulk", model="-") == 0
    ),
    "rerankq_model_jobs": lambda seen: (
        [
            _of(scene, "rerankq_model_jobs", lane="bulk", model=model)
            for scene in (seen.idle, seen.at_work)
            for model in ("-", "double")
        ]
        == [0, 0, 1, 0]
    ),
    "rerankq_model_oldest_seconds": lambda seen: (
        0 < (_of(seen.at_work, "rerankq_model_oldest_seconds", lane="bulk", model="-") or 0) < 60
        and _of(seen.at_work, "rerankq_model_oldest_seconds", lane="bulk", model="double") == 0
    ),
    "rerankq_model_workers": lambda seen: (
        [_of(seen.idle, "rerankq_model_workers", model=model) for model in ("-", "double")] == [2, 2]
    ),
    "rerankq_unacked_jobs": lambda seen: (
        [_of(scene, "rerankq_unacked_jobs") for scene in (seen.idle, seen.at_work, seen.restarted)]
        == [0, 1, 0]
    ),
    "rerankq_held_jobs": lambda seen: (
        [
            _of(scene, "rerankq_held_jobs", lane=lane)
            for scene in (seen.idle, seen.at_work)
            for lane in ("bulk", "interactive")
        ]
        == [0, 0, 1, 0]
    ),
    "rerankq_jobs_total": lambda seen: (
        [
            _of(scene, "rerankq_jobs_total", lane=lane, outcome=outcome)
            for scene in (seen.idle, seen.restarted)
            for lane, outcome in (("bulk", "done"), ("interactive", "failed"), ("bulk", "dead"))
        ]
        == [0, 0, 0, 2, 1, 0]
    ),
    "rerankq_pairs_total": lambda seen: (
        [_of(scene, "rerankq_pairs_total", lane="bulk") for scene in (seen.idle, seen.restarted)]
        == [0, 2 * DOCUMENTS]
    ),
    "rerankq_deliveries_total": lambda seen: (
        [
            _of(seen.restarted, "rerankq_deliveries_total", cause=cause)
            for cause in ("first", "lease_lost", "handed_back")
        ]
        == [4, 0, 0]
    ),
    "rerankq_refusals_total": lambda seen: (
        _of(seen.restarted, "rerankq_refusals_total", reason="lane_full") == 0
    ),
    "rerankq_job_seconds_bucket": lambda seen: (
        [
            _of(seen.restarted, "rerankq_job_seconds_bucket", lane="bulk", le=bound)
            for bound in ("1.0", "60.0", "+Inf")
        ]
        == [0, 2, 2]
    ),
    "rerankq_job_wait_seconds_bucket": lambda seen: (
        [
            _of(seen.restarted, "rerankq_job_wait_seconds_bucket", lane="bulk", le=bound)
            for bound in ("1.0", "60.0", "+Inf")
        ]
        == [sum(ranking.timings.queued_seconds <= 1 for ranking in seen.rankings), 2, 2]
    ),
    "rerankq_build_info": lambda seen: (
        _of(
            seen.idle,
            "rerankq_build_info",
            device="cpu0",
            version=VERSION,
            model="double",
            revision="0",
            dtype="none",
            engine="packed",
        )
        == 1
    ),
    "rerankq_dead_letters": lambda seen: (
        [_of(scene, "rerankq_dead_letters") for scene in (seen.idle, seen.through)] == [0, 1]
    ),
    "rerankq_workers": lambda seen: (
        sum(value for (name, _), value in seen.idle.items() if name == "rerankq_workers") == 2
        and _of(seen.idle, "rerankq_workers", state="ready") == 2
    ),
    "rerankq_lost_workers": lambda seen: (
        [_of(scene, "rerankq_lost_workers") for scene in (seen.idle, seen.restarted)] == [0, 0]
    ),
    "rerankq_engine_up": lambda seen: _of(seen.at_work, "rerankq_engine_up", device="cpu0") == 1,
    "rerankq_engine_state": lambda seen: (
        _of(seen.idle, "rerankq_engine_state", device="cpu0", state="ready") == 1
        and _of(seen.at_work, "rerankq_engine_state", device="cpu0", state="busy") == 1
        and _of(seen.at_work, "rerankq_engine_state", device="cpu0", state="ready") == 0
    ),
    "rerankq_engine_pairs_total": lambda seen: (
        _of(seen.idle, "rerankq_engine_pairs_total", device="cpu0") == 0
        and _of(seen.through, "rerankq_engine_pairs_total", device="cpu0") == 2 * DOCUMENTS
    ),
    "rerankq_engine_tokens_total": lambda seen: (
        _of(seen.through, "rerankq_engine_tokens_total", device="cpu0")
        == sum(ranking.usage.tokens for ranking in seen.rankings)
    ),
    "rerankq_engine_batches_total": lambda seen: (
        _of(seen.through, "rerankq_engine_batches_total", device="cpu0") == 2 * DOCUMENTS / BATCH_PAIRS + 1
    ),
    "rerankq_engine_busy_seconds_total": lambda seen: (
        1 <= (_of(seen.through, "rerankq_engine_busy_seconds_total", device="cpu0") or 0) / _asleep() < 3
    ),
    "rerankq_engine_pairs_per_second": lambda seen: (
        1 / 3 < (_of(seen.through, "rerankq_engine_pairs_per_second", device="cpu0") or 0) / _pace() <= 1
    ),
    "rerankq_engine_waiting_rows": lambda seen: (
        _of(seen.idle, "rerankq_engine_waiting_rows", device="cpu0", lane="bulk") == 0
        and 0
        < (_of(seen.at_work, "rerankq_engine_waiting_rows", device="cpu0", lane="bulk") or 0)
        < DOCUMENTS
    ),
    "rerankq_engine_out_of_memory_total": lambda seen: (
        [
            _of(scene, "rerankq_engine_out_of_memory_total", device="cpu0")
            for scene in (seen.idle, seen.through)
        ]
        == [0, 1]
    ),
    "rerankq_engine_refused_jobs_total": lambda seen: (
        [
            _of(scene, "rerankq_engine_refused_jobs_total", device="cpu0")
            for scene in (seen.idle, seen.through)
        ]
        == [0, 1]
    ),
    "rerankq_engine_starts_total": lambda seen: (
        [_of(scene, "rerankq_engine_starts_total", device="cpu0") for scene in (seen.through, seen.restarted)]
        == [1, 2]
    ),
    "rerankq_broker_memory_bytes": lambda seen: (
        500_000 < (_of(seen.through, "rerankq_broker_memory_bytes") or 0) < 64 * 1024**2
    ),
    "rerankq_broker_memory_limit_bytes": lambda seen: (
        _of(seen.idle, "rerankq_broker_memory_limit_bytes") == 64 * 1024**2
    ),
    "rerankq_redis_risk": lambda seen: (
        _of(seen.idle, "rerankq_redis_risk", store="broker", risk="no_log") == 1
        and _of(seen.idle, "rerankq_redis_risk", store="broker", risk="eviction") == 1
        and _of(seen.idle, "rerankq_redis_risk", store="broker", risk="log_write") == 0
    ),
    "rerankq_scrape_errors_total": lambda seen: (
        {value for (name, _), value in seen.through.items() if name == "rerankq_scrape_errors_total"} == {0}
    ),
}


def _asleep() -> float:
    """Seconds that the double slept over its passes, the one that did not fit included."""
    return BATCH_SECONDS * (2 * DOCUMENTS / BATCH_PAIRS + 1)


def _pace() -> float:
    return BATCH_PAIRS / BATCH_SECONDS


@pytest.mark.parametrize("metric", TRUTHS)
def test_a_metric_tells_the_truth(seen: Seen, metric: str) -> None:
    assert TRUTHS[metric](seen), [
        {labels: value for (name, labels), value in scene.items() if name == metric}
        for scene in (seen.idle, seen.at_work, seen.through, seen.restarted)
    ]


def test_every_metric_is_held_to_the_truth_and_listed(seen: Seen) -> None:
    served = {
        name
        for scene in (seen.idle, seen.at_work, seen.through)
        for name, _ in scene
        if name.startswith("rerankq_") and not name.endswith(("_seconds_count", "_seconds_sum"))
    }

    assert TRUTHS.keys() == METRICS.keys()
    assert served == METRICS.keys()


EVICTION = (
    "the broker Redis may lose what it holds: maxmemory-policy volatile-lru drops what it holds when memory is full "
    "(0 keys dropped so far); set maxmemory-policy noeviction"
)


def test_a_worker_says_at_its_start_what_redis_may_lose_and_the_cure(seen: Seen) -> None:
    assert EVICTION in seen.log
    assert "the broker Redis may lose what it holds: its append-only log is off" in seen.log


def test_the_list_of_workers_ends_with_what_redis_may_lose(seen: Seen) -> None:
    assert EVICTION in seen.workers.splitlines()
    assert {risk["name"]: risk["store"] for risk in json.loads(seen.workers_json)["risks"]} == {
        "eviction": "broker",
        "no_log": "broker",
    }


def test_a_dead_letter_is_kept_for_as_long_as_the_setting_says(seen: Seen) -> None:
    assert seen.dead_letter_ttls
    assert all(
        DEAD_LETTER_TTL_SECONDS - 300 < ttl <= DEAD_LETTER_TTL_SECONDS for ttl in seen.dead_letter_ttls
    )
