"""One fault of each kind: a process killed, a lease lost, the engine killed by its job, a Redis frozen or full.

The others are in `long/`, for `make test-faults`.
"""

import time

import pytest

from rerankq import BrokerUnavailable, JobFailed, QueueFull, RerankClient
from tests.faults.conftest import FILLS_THE_MEMORY, KILLS_THE_ENGINE, documents
from tests.service import Service

LONG = documents(200)  # about a second on the double
VERY_LONG = documents(700)


def lane_of(worker: str | None) -> str:
    """`bulk` for the worker `cpu0-bulk@host`."""
    assert worker is not None
    return worker.partition("-")[2].partition("@")[0]


def test_a_job_fetched_by_a_worker_that_froze_and_died_is_answered_by_another(
    service: Service, client: RerankClient
) -> None:
    frozen = service.celery_worker("interactive")
    frozen.suspend()
    jobs = [client.submit(f"frozen fetch {number}", ["a"]) for number in range(5)]
    time.sleep(0.5)
    service.kill(frozen)

    assert all(job.result(30).complete for job in jobs)


def test_after_a_freeze_longer_than_the_lease_there_is_still_one_answer(
    service: Service, client: RerankClient
) -> None:
    workers = {lane: service.celery_worker(lane) for lane in ("interactive", "bulk")}
    families = {lane: [worker, *worker.children()] for lane, worker in workers.items()}
    job = client.submit("long freeze", VERY_LONG, deadline=time.time() + 60)
    service.wait_until(lambda: job.status().state == "running")
    worker, *_ = frozen = families[lane_of(job.status().worker)]

    for process in frozen:
        process.suspend()
    ranking = job.result(30)
    for process in frozen:
        process.resume()
    service.wait_until(lambda: "its lease was gone at the" in service.log())

    assert lane_of(ranking.worker.name) not in worker.cmdline()
    assert job.result(5).results == ranking.results
    assert service.testimony().most_often_scored("long freeze") <= 3


def test_a_job_whose_child_is_killed_goes_on_from_its_scored_batches(
    service: Service, client: RerankClient
) -> None:
    child = service.celery_child("bulk")
    job = client.submit("killed child", VERY_LONG, lane="bulk")
    service.wait_until(lambda: job.progress()[0] > 200)
    service.kill(child)

    ranking = job.result(30)

    assert ranking.complete
    assert ranking.usage.cached_pairs > 200
    assert service.testimony().most_often_scored("killed child") <= 2
    assert service.testimony().rows_scored("killed child") < len(VERY_LONG) + 450


def test_a_killed_engine_costs_neither_a_redelivery_nor_a_score(
    service: Service, client: RerankClient
) -> None:
    queries = {"engine dies": "interactive", "engine dies too": "bulk"}
    jobs = [
        client.submit(query, LONG, lane=lane, deadline=time.time() + 60) for query, lane in queries.items()
    ]
    engine = service.engine()
    service.wait_until(lambda: all(service.testimony().rows_scored(query) for query in queries))
    service.kill(engine)

    assert all(job.result(30).complete for job in jobs)
    assert [job.status().attempts for job in jobs] == [1, 1]
    assert service.testimony().rows_scored("engine dies") <= len(LONG) + 8


def test_a_job_that_kills_the_engine_is_given_up_and_its_neighbours_are_answered(
    service: Service, client: RerankClient
) -> None:
    innocents = [client.submit(f"innocent {n}", documents(4), lane="bulk") for n in range(26)]
    poison = client.submit(KILLS_THE_ENGINE, documents(2), deadline=time.time() + 60)
    innocents += [client.submit(f"innocent {n}", documents(4), lane="bulk") for n in range(26, 52)]

    with pytest.raises(JobFailed, match="on the device 2 times when the engine died") as failure:
        poison.result(60)

    assert failure.value.where == "engine"
    assert all(job.result(60).complete for job in innocents)
    assert service.testimony().most_often_begun(KILLS_THE_ENGINE) == 2
    assert poison.status().state == "dead"


def test_memory_that_runs_out_fails_only_the_job_that_fills_it(client: RerankClient) -> None:
    greedy = client.submit(FILLS_THE_MEMORY, documents(3))
    modest = [client.submit(f"modest {n}", documents(8), lane="bulk") for n in range(5)]

    with pytest.raises(JobFailed, match="MemoryError"):
        greedy.result(30)
    assert all(job.result(30).complete for job in modest)


def test_a_web_caller_is_told_at_once_that_redis_is_frozen(service: Service) -> None:
    with service.producer(redis_timeout_seconds=0.5) as web:
        job = web.submit("before the freeze", ["a"])
        job.result(30)
        service.redis.freeze()
        try:
            with pytest.raises(BrokerUnavailable):
                web.rerank("during the freeze", ["a"])
            with pytest.raises(BrokerUnavailable):
                web.submit("during the freeze", ["a"])
            with pytest.raises(BrokerUnavailable):
                job.status()
        finally:
            service.redis.thaw()


def test_a_full_redis_refuses_producers_and_still_drains(service: Service, client: RerankClient) -> None:
    jobs = [client.submit(f"before it is full {n}", documents(40), lane="bulk") for n in range(10)]
    with service.redis.client() as redis, service.producer() as another:
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] + 20_000)
        try:
            with pytest.raises(QueueFull, match="memory"):
                another.submit("when it is full", documents(40), lane="bulk")
            answered = [job.result(60).complete for job in jobs]
        finally:
            redis.config_set("maxmemory", 0)

    assert answered == [True] * 10
    assert client.submit("after it was full", ["a"], lane="bulk").result(30).complete
