"""What whoever looks after the face is told: it can answer, it can take jobs, it lives."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from rerankq.http import HttpSettings, create_app
from tests.redis_server import RedisServer


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """One with no worker behind it."""
    with RedisServer() as running:
        yield running


@pytest.fixture
def http(redis: RedisServer) -> Iterator[TestClient]:
    settings = HttpSettings.load(broker_url=redis.url, http_keys="secret")
    with TestClient(create_app(settings=settings)) as client:
        yield client


def test_without_a_worker_it_takes_jobs_and_says_that_it_cannot_answer(http: TestClient) -> None:
    assert http.get("/health/ready").status_code == 200
    assert http.get("/health").status_code == 503


def test_without_redis_it_is_out_of_service(http: TestClient, redis: RedisServer) -> None:
    redis.kill()

    assert http.get("/health/ready").status_code == 503
