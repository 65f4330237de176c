"""Redis dies, freezes, fills up or forgets: cases q to v."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerankq import BrokerUnavailable, QueueFull, RerankClient, RerankError
from rerankq.client import Job
from tests.faults.conftest import documents
from tests.redis_server import RedisServer
from tests.service import Service, lines_of

ENGINE = "tests.witness:engine?batch_ms=20&pair_ms=2"


@pytest.fixture(scope="module")
def answers() -> Iterator[RedisServer]:
    with RedisServer(appendonly=True) as server:
        yield server


@pytest.fixture(scope="module")
def service(answers: RedisServer) -> Iterator[Service]:
    """Lanes and answers on two servers, both syncing every write."""
    with Service(engine=ENGINE, max_batch_pairs=8, appendonly=True, result_url=answers.url) as running:
        yield running


@pytest.fixture
def client(service: Service) -> RerankClient:
    return service.client


class Producers:
    """Submit jobs of both lanes without a pause; remember those that were accepted."""

    def __init__(self, client: RerankClient, name: str) -> None:
        self._client, self._name = client, name
        self._is_over = threading.Event()
        self._threads = ThreadPoolExecutor(2)
        self.accepted: list[Job] = []
        self.refused = 0

    def __enter__(self) -> "Producers":
        self._runs = [self._threads.submit(self._run, lane) for lane in ("interactive", "bulk")]
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._threads.shutdown()
        for run in self._runs:
            run.result()

    def _run(self, lane: str) -> None:
        number = 0
        while not self._is_over.wait(0.03):
            number += 1
            query = f"{self._name} {lane} {number}"
            try:
                deadline = time.time() + 120
                self.accepted.append(self._client.submit(query, documents(8), lane=lane, deadline=deadline))
            except (BrokerUnavailable, QueueFull):
                self.refused += 1


def under_load(client: RerankClient, name: str, fault: Callable[[], None]) -> Producers:
    with Producers(client, name) as producers:
        time.sleep(0.5)
        fault()
        time.sleep(1.0)
    return producers


def test_no_job_is_lost_when_redis_is_killed_under_load(service: Service, client: RerankClient) -> None:
    def kill() -> None:
        service.redis.kill()
        time.sleep(0.5)
        service.redis.start()

    load = under_load(client, "killed redis", kill)

    assert load.refused > 0
    assert [job.result(60).complete for job in load.accepted] == [True] * len(load.accepted)


def test_no_job_is_lost_when_redis_freezes_under_load(service: Service, client: RerankClient) -> None:
    def freeze() -> None:
        service.redis.freeze()
        time.sleep(3)
        service.redis.thaw()

    load = under_load(client, "frozen redis", freeze)

    assert [job.result(60).complete for job in load.accepted] == [True] * len(load.accepted)


def test_a_wiped_redis_is_filled_again_by_its_producers(service: Service, client: RerankClient) -> None:
    def submit(job_id: str) -> Job:
        return client.submit(f"wiped {job_id}", documents(40), lane="bulk", job_id=job_id)

    waited_for, *others = [submit(f"wiped-{number}") for number in range(10)]
    pids = {service.celery_worker("bulk").pid, service.celery_worker("interactive").pid}
    with service.redis.client() as redis:
        redis.flushall()

    service.wait_until(lambda: len(client.workers()) == 2)
    jobs = [submit(job.job_id) for job in others]

    assert all(job.result(30).complete for job in [waited_for, *jobs])
    assert {service.celery_worker("bulk").pid, service.celery_worker("interactive").pid} == pids


def test_an_answer_that_cannot_be_stored_is_not_acknowledged(
    service: Service, client: RerankClient, answers: RedisServer
) -> None:
    job = client.submit("no place for the answer", documents(100), lane="bulk")
    service.wait_until(lambda: service.testimony().rows_scored("no place for the answer"))
    answers.kill()
    time.sleep(4)  # Celery gives up storing after about two
    answers.start()

    assert job.result(60).complete


def test_an_answer_that_a_full_redis_refuses_is_stored_later(
    service: Service, client: RerankClient, answers: RedisServer
) -> None:
    with answers.client() as redis:
        redis.config_set("maxmemory", 1)
        try:
            job = client.submit("refused its answer", documents(20), lane="bulk")
            service.wait_until(lambda: "outcome=given_back" in lines_of(service, job.job_id))
            assert job.status().state == "running"
        finally:
            redis.config_set("maxmemory", 0)

    assert job.result(60).complete


def test_a_job_whose_worker_dies_between_answer_and_acknowledgement_is_not_scored_again(
    service: Service, client: RerankClient
) -> None:
    job = client.submit("answered, not acknowledged", documents(60), lane="bulk")
    service.wait_until(lambda: service.testimony().rows_scored("answered, not acknowledged"))
    worker = service.celery_worker("bulk")
    worker.suspend()
    first = job.result(30)
    service.kill(worker)

    client.submit("behind the one answered", ["a"], lane="bulk").result(30)
    with service.redis.client() as redis:
        service.wait_until(lambda: redis.hlen("rerankq:held") == 0)

    assert job.result(5) == first
    assert service.testimony().rows_scored("answered, not acknowledged") == 60


def test_a_payload_that_vanished_is_a_named_error(service: Service, client: RerankClient) -> None:
    large = [f"{text} {'word ' * 400}" for text in documents(60)]
    ahead = client.submit("ahead of the vanished", documents(100), lane="bulk")
    job = client.submit("vanished", large, lane="bulk")
    with service.redis.client() as redis:
        assert redis.delete(f"rerankq:payload:{job.job_id}") == 1

    with pytest.raises(RerankError, match="payload is gone from Redis"):
        client.job(job.job_id).result(30)
    assert job.result(30).complete  # sent again: the request is at hand here
    assert ahead.result(30).complete
