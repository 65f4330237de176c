"""Time runs out or a caller leaves: cases l and m, deadlines and cancellation. None costs the model a reload."""

import time
from collections.abc import Iterator

import pytest

from rerankq import Cancelled, DeadlineExceeded, RerankClient
from tests.faults.conftest import documents
from tests.service import Service

TOO_LONG = documents(1500)  # some seven seconds on the double


@pytest.fixture(autouse=True)
def _no_reload(service: Service) -> Iterator[None]:
    """Every test here leaves the engine that it found."""
    before = service.engine().pid
    yield
    assert service.engine().pid == before


def test_a_job_that_ignores_its_limits_is_killed_and_the_next_is_served(
    service: Service, client: RerankClient
) -> None:
    job = client.submit("frozen child", TOO_LONG, lane="bulk", deadline=time.time() + 5)
    service.wait_until(lambda: job.status().state == "running")
    service.celery_child("bulk").suspend()  # not before: that of a test ago may be about to end
    behind = client.submit("behind the frozen child", ["a"], lane="bulk")

    with pytest.raises(DeadlineExceeded, match="hard time limit"):
        job.result(30)
    assert behind.result(30).complete


def test_a_job_whose_deadline_passed_in_the_queue_is_never_started(
    service: Service, client: RerankClient
) -> None:
    ahead = client.submit("ahead", documents(600), lane="bulk")  # some three seconds on the double
    service.wait_until(lambda: ahead.status().state == "running")  # while it waits, what is late is refused
    late = client.submit("too late", ["a"], lane="bulk", deadline=time.time() + 1)

    with pytest.raises(DeadlineExceeded):
        late.result(30)
    assert ahead.result(30).complete
    assert late.status().state == "expired"
    assert service.testimony().rows_scored("too late") == 0


def test_a_job_cancelled_in_the_queue_is_never_started(service: Service, client: RerankClient) -> None:
    ahead = client.submit("ahead of the cancelled", documents(300), lane="bulk")
    job = client.submit("cancelled early", ["a"], lane="bulk")
    job.cancel()

    with pytest.raises(Cancelled):
        job.result(30)
    assert ahead.result(30).complete
    client.submit("after the cancelled", ["a"], lane="bulk").result(30)
    assert service.testimony().rows_scored("cancelled early") == 0
    assert job.status().state == "cancelled"


def test_a_job_cancelled_while_it_runs_stops_between_batches(service: Service, client: RerankClient) -> None:
    job = client.submit("cancelled late", TOO_LONG, lane="bulk")
    service.wait_until(lambda: service.testimony().rows_scored("cancelled late"))
    job.cancel()

    client.submit("after the cancelled one", ["a"], lane="bulk").result(30)

    assert service.testimony().rows_scored("cancelled late") < len(TOO_LONG)
    with pytest.raises(Cancelled):
        job.result(5)


def test_a_caller_that_gives_up_calls_its_job_off(service: Service, client: RerankClient) -> None:
    with pytest.raises(DeadlineExceeded):
        client.rerank("gives up", TOO_LONG, timeout=0.3, deadline=time.time() + 60)

    client.submit("after the one given up", ["a"], lane="bulk").result(30)
    client.rerank("after the one given up", ["a"])
    scored = service.testimony().rows_scored("gives up")
    assert scored < len(TOO_LONG)


def test_a_cancelled_job_stays_cancelled_when_every_worker_is_killed(
    service: Service, client: RerankClient
) -> None:
    worker = service.celery_worker("bulk")
    job = client.submit("cancelled, then killed", TOO_LONG, lane="bulk")
    service.wait_until(lambda: job.status().state == "running")
    worker.suspend()
    job.cancel()
    service.kill(worker)

    scored = service.testimony().rows_scored("cancelled, then killed")
    assert client.submit("after that", ["a"], lane="bulk").result(30).complete
    service.wait_until(lambda: job.status().error)
    assert job.status().state == "cancelled"
    assert service.testimony().rows_scored("cancelled, then killed") <= scored + 16
