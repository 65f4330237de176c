"""What the first ten tests stand on: a whole service, an HTTP address of it, and somebody's Celery application."""

from collections.abc import Iterator

import pytest
from celery import Celery
from starlette.testclient import TestClient

from rerankq import RerankClient
from rerankq.http import HttpSettings, create_app
from tests.neighbours import stock
from tests.service import Service


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    """Redis, an engine process and two Celery workers; in the model's place one that finds the shortest text the best.

    So it is known how long a pair takes; tests/worker/test_service.py asks a real model.
    """
    with Service(engine="rerankq_worker.doubles:slow?pair_ms=4") as running:
        yield running


@pytest.fixture
def client(service: Service) -> RerankClient:
    return service.client


@pytest.fixture
def http(service: Service) -> Iterator[TestClient]:
    settings = HttpSettings.load(broker_url=service.redis.url, redis_timeout_seconds=5.0)
    with TestClient(create_app(settings=settings), base_url="http://127.0.0.1") as asking:
        yield asking


@pytest.fixture
def shop(service: Service) -> Iterator[Celery]:
    """An application whose own worker runs `shop.retrieve` and `shop.consume`."""
    with stock.working(service.redis.url), stock.asking(service.redis.url) as app:
        yield app
