"""What is counted of jobs, scraped from a real worker: each end of a real job once, through kills and restarts."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from celery import Celery

from rerankq import RerankClient
from rerankq.client import Job
from rerankq.contract import keys
from rerankq.contract.errors import NoWorkers, QueueFull, RerankError
from rerankq.contract.messages import Lane, Ranking
from rerankq.contract.totals import BOUNDS_SECONDS, Histogram, Totals, totals_in
from rerankq.contract.transport.dead_letters import DeadLetters
from tests.process.test_metrics_of_a_service import Samples, scraped_at
from tests.redis_server import free_port
from tests.service import Service
from tests.witness import token_of

PORT = free_port()
DEADLY = "zanzibarium"
WITHIN_SECONDS = 60.0


@dataclass(slots=True, repr=False)
class Seen:
    """What was counted, what a scrape says, and what is known to be true."""

    totals: Totals
    samples: Samples
    ends: Counter[tuple[Lane, str]]
    deliveries: Counter[str]
    rankings: dict[Lane, list[Ranking]]
    pairs: Counter[Lane]


class Scenario:
    """Real jobs, and a tally of what becomes of them."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.client: RerankClient = service.client
        self.ends = Counter[tuple[Lane, str]]()
        self.deliveries = Counter[str]()
        self.rankings: dict[Lane, list[Ranking]] = {"interactive": [], "bulk": []}
        self.pairs = Counter[Lane]()

    def done(self, lane: Lane, documents: int) -> None:
        self.answered(self.client.submit("q", [f"d{n}" for n in range(documents)], lane=lane), lane)

    def answered(self, job: Job, lane: Lane) -> None:
        ranking = job.result(WITHIN_SECONDS)
        self.rankings[lane].append(ranking)
        self.pairs[lane] += ranking.usage.pairs
        self._tally(lane, "done")

    def packed(self) -> None:
        """A pack is one job, and it is done, whatever of it failed."""
        requests = [self.client.request("q", ["a", "b"], lane="bulk"), self._too_long()]
        ranking, error = self.client.send_pack(requests).answers(WITHIN_SECONDS)
        assert isinstance(ranking, Ranking)
        assert isinstance(error, RerankError)
        self.rankings["bulk"].append(ranking)
        self.pairs["bulk"] += 2
        self._tally("bulk", "done")

    def failed(self) -> None:
        self.ended(self.client.send(self._too_long()), "bulk", "failed")

    def ended(self, job: Job, lane: Lane, outcome: str) -> None:
        with pytest.raises(RerankError):
            job.result(WITHIN_SECONDS)
        assert job.status().state == outcome
        self._tally(lane, outcome)

    def while_nobody_is_there(self) -> None:
        """One is called off, one comes too late, one's message vanishes, one is refused."""
        with self.service.redis.client() as redis:  # an answer is there before its delivery is done with
            self.service.wait_until(lambda: not redis.zcard(keys.LEASES))
        self.service.stop_launcher(signal.SIGKILL)
        called_off = self.client.submit("q", ["a"], lane="bulk")
        called_off.cancel()
        late = self.client.submit("q", ["a"], deadline=time.time() + 0.2)
        with self.service.redis.client() as redis:
            vanished = self.client.submit("q", ["a"], model="double", lane="bulk")
            redis.delete(keys.queue_of("bulk", "double"))
        time.sleep(0.2)
        self.service.start_launcher()
        self.ended(called_off, "bulk", "cancelled")
        self.ended(late, "interactive", "expired")
        with self.service.producer(redis_timeout_seconds=5.0) as stranger:  # who sent it would send it again
            self.ended(stranger.job(vanished.job_id), "bulk", "failed")
        self.deliveries.subtract(first=1)
        self.deliveries.update(vanished=1)

    def dead(self) -> None:
        """Given up as it kills engines, tried again by an operator, given up again; and one that is no job of ours."""
        deadly = self.client.submit("q", [DEADLY], lane="bulk")
        self.ended(deadly, "bulk", "dead")
        with self.service.redis.client() as redis:
            self.service.wait_until(lambda: DeadLetters(redis).retry(deadly.job_id))
            redis.delete(keys.result(deadly.job_id))
        self.ended(deadly, "bulk", "dead")
        self.deliveries.subtract(first=1)
        self.deliveries.update(retried=1)
        url = self.service.redis.url
        with Celery("stranger", broker=url, backend=url) as stranger:
            unknown = stranger.send_task("no.such.task", queue="rerankq.interactive")
        job = self.client.job(unknown.id)
        self.service.wait_until(lambda: job.status().state == "dead")
        self._tally("interactive", "dead")

    def of_a_stranger(self) -> None:
        """A Celery client that keeps no record, and whose task is not to run yet."""
        url = self.service.redis.url
        with Celery("stranger", broker=url, backend=url) as stranger:
            asked = {"query": "q", "documents": ["a", "b", "c"]}
            sent = stranger.send_task("rerankq.rerank", kwargs=asked, queue="rerankq.bulk", countdown=3)
            assert sent.get(timeout=WITHIN_SECONDS)["scored"] == 3
        self.pairs["bulk"] += 3
        self._tally("bulk", "done")
        self.deliveries.update(handed_back=1)

    def lost(self) -> None:
        """Its worker is killed as it runs; another one answers it."""
        worker = self.service.celery_worker("bulk")
        job = self.client.submit("lost", [f"d{n}" for n in range(400)], lane="bulk")
        self.service.wait_until(lambda: self.service.testimony().rows_scored("lost") > 0)
        self.service.kill(worker)
        self.answered(job, "bulk")
        self.deliveries.update(lease_lost=1)

    def _too_long(self):  # type: ignore[no-untyped-def] - a request
        return self.client.request("q", ["word " * 50], lane="bulk", truncation=False, max_tokens_per_doc=5)

    def _tally(self, lane: Lane, outcome: str) -> None:
        self.ends[lane, outcome] += 1
        self.deliveries["first"] += 1


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    engine = f"tests.witness:engine?pair_ms=4&die={token_of(DEADLY)}"
    with Service(engine=engine, metrics_port=PORT, max_batch_pairs=8) as service:
        scenario = Scenario(service)
        for lane, documents in (("interactive", 2), ("interactive", 7), ("bulk", 3), ("bulk", 30)):
            scenario.done(lane, documents)  # type: ignore[arg-type] - a lane
        scenario.packed()
        scenario.failed()
        scenario.while_nobody_is_there()
        scenario.of_a_stranger()
        scenario.lost()
        scenario.dead()
        refuse(service)
        settled(service, scenario)
        yield Seen(
            totals_of(service),
            scraped_at(PORT),
            scenario.ends,
            scenario.deliveries,
            scenario.rankings,
            scenario.pairs,
        )


def refuse(service: Service) -> None:
    """Three jobs that clients do not send, each told by the next that asks."""
    with service.producer(max_bulk_jobs=1) as full, service.redis.client() as redis:
        redis.lpush(keys.queue_of("bulk", "nobody's"), *"ab")
        for _ in range(2):
            with pytest.raises(QueueFull):
                full.submit("q", ["a"], model="nobody's", lane="bulk")
        redis.delete(keys.queue_of("bulk", "nobody's"))
        with pytest.raises(NoWorkers):
            full.rerank("q", ["a"], model="nobody's")
        time.sleep(1.1)
        assert full.workers()


def settled(service: Service, scenario: Scenario) -> None:
    """The last end is counted a moment after its answer can be had."""
    service.wait_until(lambda: sum(totals_of(service).jobs.values()) >= scenario.ends.total())


def totals_of(service: Service) -> Totals:
    with service.redis.client() as redis:
        return totals_in(redis.hgetall(keys.TOTALS))


def test_every_end_is_counted_once_by_lane_and_outcome_whatever_was_restarted_since(seen: Seen) -> None:
    assert {end: count for end, count in seen.totals.jobs.items() if count} == dict(seen.ends)
    assert {outcome for _, outcome in seen.ends} == {"done", "failed", "dead", "expired", "cancelled"}


def test_every_delivery_is_counted_by_its_cause(seen: Seen) -> None:
    assert {cause: count for cause, count in seen.totals.deliveries.items() if count} == +seen.deliveries


def test_pairs_are_those_of_the_rankings(seen: Seen) -> None:
    assert seen.totals.pairs == dict(seen.pairs)


def test_refusals_are_counted_by_their_reason(seen: Seen) -> None:
    told = {reason: count for reason, count in seen.totals.refusals.items() if count}

    assert told == {"lane_full": 2, "no_workers": 1}


@pytest.mark.parametrize("lane", ["interactive", "bulk"])
def test_times_are_those_that_rankings_tell(seen: Seen, lane: Lane) -> None:
    timings = [ranking.timings for ranking in seen.rankings[lane]]
    waits, times = seen.totals.waits[lane], seen.totals.times[lane]

    assert waits.count == times.count == len(timings)
    assert waits.sum_seconds == pytest.approx(sum(timing.queued_seconds for timing in timings), abs=1e-4)
    assert times.sum_seconds > sum(timing.total_seconds for timing in timings)  # and until that was stored


def test_a_scrape_tells_what_was_counted(seen: Seen) -> None:
    told, totals = seen.samples, seen.totals

    for (lane, outcome), count in totals.jobs.items():
        assert told[labelled("rerankq_jobs_total", lane=lane, outcome=outcome)] == count
    for cause, count in totals.deliveries.items():
        assert told[labelled("rerankq_deliveries_total", cause=cause)] == count
    for reason, count in totals.refusals.items():
        assert told[labelled("rerankq_refusals_total", reason=reason)] == count
    for lane in totals.pairs:
        assert told[labelled("rerankq_pairs_total", lane=lane)] == totals.pairs[lane]
        for name, of in (("job_wait", totals.waits[lane]), ("job", totals.times[lane])):
            assert_is_histogram(told, f"rerankq_{name}_seconds", lane, of)


def assert_is_histogram(told: Samples, name: str, lane: Lane, histogram: Histogram) -> None:
    """Cumulative buckets, every bound there is, a sum and a count, as Prometheus has them."""
    bounds = [*map(str, BOUNDS_SECONDS), "+Inf"]
    buckets = [told[labelled(f"{name}_bucket", lane=lane, le=bound)] for bound in bounds]

    assert buckets == [sum(histogram.counts[: at + 1]) for at in range(len(bounds))]
    assert told[labelled(f"{name}_count", lane=lane)] == histogram.count
    assert told[labelled(f"{name}_sum", lane=lane)] == pytest.approx(histogram.sum_seconds)


def labelled(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_there_are_no_more_fields_than_a_small_hash_may_have(seen: Seen) -> None:
    fields = sum(
        map(len, (seen.totals.jobs, seen.totals.pairs, seen.totals.deliveries, seen.totals.refusals))
    )

    assert fields + 2 * 2 * (len(BOUNDS_SECONDS) + 2) <= 128  # `hash-max-listpack-entries`
