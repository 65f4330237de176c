"""Interactive beside bulk, and the same job sent twice: cases w and x."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerankq import InvalidRequest, RerankClient
from rerankq.contract.keys import queue_of
from tests.faults.conftest import documents
from tests.service import Service


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """Of its own: after a job that outlived several engines few are let in."""
    with Service(engine="tests.witness:engine?batch_ms=20&pair_ms=2", max_batch_pairs=8) as running:
        yield running


def test_interactive_jobs_are_answered_while_one_bulk_job_is_at_work(
    service: Service, client: RerankClient
) -> None:
    bulk = client.submit("one long bulk job", documents(1000), lane="bulk")
    behind = [client.submit(f"bulk behind {n}", documents(50), lane="bulk") for n in range(5)]
    service.wait_until(lambda: bulk.progress()[0] > 0)

    answered = [client.rerank(f"meanwhile {n}", documents(10)).complete for n in range(3)]

    assert answered == [True] * 3
    assert bulk.status().state == "running"
    assert all(job.result(60).complete for job in [bulk, *behind])


def test_one_id_submitted_by_many_at_once_is_scored_at_most_twice_and_answered_once(
    service: Service, client: RerankClient
) -> None:
    with ThreadPoolExecutor(8) as threads:
        jobs = list(threads.map(lambda _: client.submit("same job", documents(30), job_id="same"), range(8)))

    rankings = [job.result(30) for job in jobs]

    assert all(ranking == rankings[0] for ranking in rankings)
    assert service.testimony().most_often_scored("same job") <= 2


def test_a_job_submitted_again_is_neither_scored_nor_answered_anew(
    service: Service, client: RerankClient
) -> None:
    first = client.submit("resent", documents(30), job_id="resent").result(30)

    again = client.submit("resent", documents(30), job_id="resent").result(30)

    assert again == first
    assert service.testimony().rows_scored("resent") == 30


def test_a_second_copy_of_a_message_is_not_scored_again(service: Service, client: RerankClient) -> None:
    ahead = client.submit("ahead of the copies", documents(300), lane="bulk")
    service.wait_until(lambda: ahead.status().state == "running")
    job = client.submit("copied", documents(30), lane="bulk")
    with service.redis.client() as redis:
        redis.lpush(queue_of("bulk"), redis.lindex(queue_of("bulk"), 0))

    assert ahead.result(30).complete
    assert job.result(30).complete
    assert client.submit("behind the copies", ["a"], lane="bulk").result(30).complete
    assert service.testimony().rows_scored("copied") == 30


def test_an_id_cannot_be_taken_by_another_request(client: RerankClient) -> None:
    client.submit("mine", ["a"], job_id="taken").result(30)

    with pytest.raises(InvalidRequest, match="belongs to another request"):
        client.submit("yours", ["a"], job_id="taken")
