"""What an operator sees and does while a real worker is at work."""

import socket
from collections.abc import Iterator

import pytest

import rerankq
from rerankq.contract.messages import CONTRACT_VERSION
from tests.service import Service

LONG = [f"document {number}" for number in range(320)]  # ten batches on the double


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(engine="rerankq_worker.doubles:slow?batch_ms=500") as service:
        yield service


def test_a_worker_tells_its_release_its_host_and_the_job_it_runs(service: Service) -> None:
    job = service.client.submit("q", LONG, lane="bulk")
    service.wait_until(lambda: any(worker.job == job.job_id for worker in service.client.workers()))

    told = {worker.job: worker for worker in service.client.workers()}
    at_it, idle = told[job.job_id], told[""]

    assert (at_it.version, at_it.contract) == (rerankq.__version__, CONTRACT_VERSION)
    assert at_it.host == idle.host == socket.gethostname()
    assert 0 <= (at_it.job_seconds or -1.0) < 20
    assert idle.job_seconds is None
    service.wait_until(lambda: any((worker.device_busy or 0) > 0.5 for worker in service.client.workers()))
    job.cancel()
