"""Something dies or freezes in mid job: cases a to f, h and i. Accepted is answered, once."""

import time
from collections.abc import Callable

import psutil
import pytest

from rerankq import JobFailed, RerankClient
from rerankq.client import Job
from rerankq.contract import keys
from rerankq.contract.transport.dead_letters import DeadLetters
from tests.faults.conftest import LEASE_SECONDS, documents
from tests.service import Service

LONG = documents(200)  # about a second on the double
VERY_LONG = documents(700)


def test_no_job_is_lost_when_workers_are_killed_under_load(service: Service, client: RerankClient) -> None:
    jobs: list[Job] = []
    for kill in range(2):
        jobs += [client.submit(f"load {kill} {number}", documents(20)) for number in range(20)]
        service.kill(service.celery_worker("interactive"))
        jobs += [
            client.submit(f"load {kill} {number}", documents(20), lane="bulk") for number in range(20, 30)
        ]
        service.kill(service.celery_worker("bulk"))

    assert [len(job.result(60).results) for job in jobs] == [20] * len(jobs)


def test_a_freeze_shorter_than_the_lease_costs_no_second_run(service: Service, client: RerankClient) -> None:
    worker = service.celery_worker("bulk")
    job = client.submit("short freeze", LONG, lane="bulk")
    service.wait_until(lambda: service.testimony().rows_scored("short freeze"))

    worker.suspend()
    time.sleep(LEASE_SECONDS / 2)
    worker.resume()

    assert job.result(30).complete
    assert service.testimony().rows_scored("short freeze") == len(LONG)
    assert job.status().attempts == 1


def kill_whenever_it_runs(service: Service, job: Job, victim: Callable[[], psutil.Process]) -> int:
    """Play a job that ends whoever runs it; how often it did."""
    deaths = 0
    while not job.done():
        if job.status().state == "running" and job.status().attempts > deaths:
            service.kill(victim())
            deaths += 1
        time.sleep(0.05)
    return deaths


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_a_job_that_kills_its_process_is_set_aside_after_three_attempts_and_replayable(
    service: Service, client: RerankClient, victim: str
) -> None:
    find = service.celery_child if victim == "child" else service.celery_worker
    job = client.submit(f"kills its {victim}", VERY_LONG, lane="bulk")
    behind = client.submit(f"behind the {victim} killer", ["innocent"], lane="bulk")

    deaths = kill_whenever_it_runs(service, job, lambda: find("bulk"))

    with pytest.raises(JobFailed, match="given up after 3 attempts") as given_up:
        job.result(10)
    assert deaths == 3 == given_up.value.attempts == job.status().attempts
    assert behind.result(30).complete
    assert job.status().state == "dead"
    with service.redis.client() as redis:
        letters = DeadLetters(redis)
        service.wait_until(
            lambda: (job.job_id, 3) in [(letter.id, letter.attempts) for letter in letters.list()]
        )
        redis.delete(keys.result(job.job_id))
        assert letters.retry(job.job_id)
    assert job.result(60).complete
