"""Messages vanish from Redis behind everybody's back: their jobs are sent again, or end as a named error."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rerankq import AsyncRerankClient, JobFailed, RerankClient
from rerankq.client import Job
from rerankq.contract import keys
from rerankq.contract.keys import queue_of
from tests.bulk.test_resume import COMMAND
from tests.bulk.test_run import read, rows, write
from tests.faults.conftest import documents
from tests.service import Service, lines_of

BULK = queue_of("bulk")
ENDS_WITHIN_SECONDS = 60


def behind_a_long_one(client: RerankClient, name: str, count: int = 6) -> list[Job]:
    """A bulk job that runs, and jobs that wait behind it."""
    ahead = client.submit(f"ahead of the {name}", documents(400), lane="bulk")
    while ahead.status().state == "queued":
        time.sleep(0.01)
    return [ahead, *(client.submit(f"{name} {n}", documents(4), lane="bulk") for n in range(count))]


def is_untracked(service: Service) -> bool:
    """Whether no job is open: all that were have been answered and closed."""
    with service.redis.client() as redis:
        return redis.exists(keys.open_jobs(BULK), keys.open_jobs(queue_of("interactive"))) == 0


def test_jobs_that_were_purged_are_sent_again_by_whoever_waits_for_them(
    service: Service, client: RerankClient
) -> None:
    jobs = behind_a_long_one(client, "purged")
    purge = [sys.executable, "-m", "celery", "-A", "rerankq_worker.app", "purge", "-f", "-Q", f"{BULK},other"]
    subprocess.run(purge, env=service.environment, check=True, capture_output=True)

    assert all(job.result(ENDS_WITHIN_SECONDS).complete for job in jobs)
    service.wait_until(lambda: is_untracked(service))


@pytest.mark.parametrize("how", ["deleted", "renamed away", "evicted one by one"])
def test_whoever_only_knows_the_id_is_told_that_a_job_vanished(
    service: Service, client: RerankClient, how: str
) -> None:
    ahead, *jobs = behind_a_long_one(client, how.replace(" ", "-"))
    with service.redis.client() as redis:
        if how == "deleted":
            redis.delete(BULK)
        elif how == "renamed away":
            redis.rename(BULK, "rerankq.elsewhere")
        else:
            redis.lpop(BULK, len(jobs))

    for job in jobs:
        with pytest.raises(JobFailed, match="vanished from Redis") as told:
            client.job(job.job_id).result(ENDS_WITHIN_SECONDS)
        assert (told.value.where, told.value.retryable) == ("broker", True)
        assert client.status(job.job_id).state == "failed"
    assert ahead.result(ENDS_WITHIN_SECONDS).complete


def test_a_job_that_vanished_is_sent_again_by_submitting_it_again(
    service: Service, client: RerankClient
) -> None:
    behind_a_long_one(client, "told first", 0)
    client.submit("told first", ["a"], lane="bulk", job_id="told-first")
    client.submit("at once", ["a"], lane="bulk", job_id="at-once")
    with service.redis.client() as redis:
        redis.delete(BULK)

    at_once = client.submit("at once", ["a"], lane="bulk", job_id="at-once")
    with pytest.raises(JobFailed):
        client.job("told-first").result(ENDS_WITHIN_SECONDS)
    again = client.submit("told first", ["a"], lane="bulk", job_id="told-first")

    assert again.result(ENDS_WITHIN_SECONDS).complete
    assert at_once.result(ENDS_WITHIN_SECONDS).complete


def test_jobs_that_vanished_with_the_index_of_open_jobs_are_sent_again(
    service: Service, client: RerankClient
) -> None:
    jobs = behind_a_long_one(client, "vanished with the index", 2)
    with service.redis.client() as redis:
        redis.delete(*redis.keys(f"{BULK}*"))

    assert all(job.result(ENDS_WITHIN_SECONDS).complete for job in jobs)


@pytest.mark.parametrize(
    "what", [BULK, f"{BULK}*", "*"], ids=["lane", "lane and index", "all that Redis holds"]
)
def test_a_vanished_job_is_sent_again_from_asyncio(service: Service, client: RerankClient, what: str) -> None:
    async def ask() -> bool:
        async with AsyncRerankClient(settings=client.settings) as asking:
            job = await asking.submit(f"asyncio {what}", ["a"], lane="bulk")
            with service.redis.client() as redis:
                redis.delete(*redis.keys(what))
            return (await job.result(ENDS_WITHIN_SECONDS)).complete

    behind_a_long_one(client, f"asyncio {what}", 0)

    assert asyncio.run(ask())


def test_bulk_whose_lane_is_deleted_on_the_way_ends_with_every_row(service: Service, tmp_path: Path) -> None:
    # The output is written once a second: some seconds of work, or the run is through before it is seen half done.
    given, out = write(tmp_path / "in.jsonl", rows(600)), tmp_path / "out.jsonl"
    words = [sys.executable, "-c", COMMAND, service.redis.url, given, str(out), "ordered"]
    with subprocess.Popen(words, env=service.environment) as run, service.redis.client() as redis:
        for count in (1, 50):
            service.wait_until(lambda: out.exists() and out.read_bytes().count(b"\n") >= count)  # noqa: B023 - asked at once
            service.wait_until(lambda: redis.delete(BULK))

    assert run.returncode == 0
    assert [line["id"] for line in read(out)] == [f"r{number}" for number in range(600)]


def test_a_job_whose_record_vanished_is_waited_for_and_answered(
    service: Service, client: RerankClient
) -> None:
    ahead, *jobs = behind_a_long_one(client, "without record", 2)
    with service.redis.client() as redis:
        redis.delete(*(keys.job(job.job_id) for job in jobs))

    assert [client.status(job.job_id).state for job in jobs] == ["queued", "queued"]
    assert all(client.job(job.job_id).result(ENDS_WITHIN_SECONDS).complete for job in [ahead, *jobs])


def test_a_job_that_vanished_from_its_workers_hands_has_one_end(
    service: Service, client: RerankClient
) -> None:
    job, engine = behind_a_long_one(client, "held", 0)[0], service.engine()
    with service.redis.client() as redis:
        engine.suspend()  # so that the worker has not answered by the time that somebody looks
        redis.delete(keys_of_held := "rerankq:held")
        with pytest.raises(JobFailed, match="vanished"):
            client.job(job.job_id).result(ENDS_WITHIN_SECONDS)
        engine.resume()
        service.wait_until(lambda: "outcome=superseded" in lines_of(service, job.job_id))
        assert redis.hlen(keys_of_held) == 0

    with pytest.raises(JobFailed, match="vanished"):
        client.job(job.job_id).result(5)


def test_a_cancelled_job_that_vanished_stays_cancelled(service: Service, client: RerankClient) -> None:
    _, job = behind_a_long_one(client, "cancelled and gone", 1)
    job.cancel()
    with service.redis.client() as redis:
        redis.delete(BULK)

    service.wait_until(lambda: is_untracked(service), ENDS_WITHIN_SECONDS)

    assert client.status(job.job_id).state == "cancelled"


def test_a_job_that_a_worker_of_before_answered_keeps_its_answer(
    service: Service, client: RerankClient
) -> None:
    ranking = client.submit("answered by another", ["a"], lane="bulk", job_id="other-worker").result(30)
    with service.redis.client() as redis:
        redis.zadd(keys.open_jobs(BULK), {"other-worker": 1})  # it takes no job off this list

    service.wait_until(lambda: is_untracked(service))

    assert client.job("other-worker").result(5) == ranking
