"""A Redis with a worker in a thread, and a client with little patience."""

from collections.abc import Iterator

import pytest

from rerankq import RerankClient
from rerankq.settings import ClientSettings
from tests.bulk.answering import AnsweringWorker
from tests.redis_server import RedisServer


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[RerankClient]:
    redis_server.client().flushall()
    settings = ClientSettings(broker_url=redis_server.url, bulk_patience_seconds=1.0)
    with RerankClient(settings=settings) as made:
        yield made


@pytest.fixture
def worker(client: RerankClient, redis_server: RedisServer) -> Iterator[AnsweringWorker]:
    with AnsweringWorker(redis_server) as serving:
        yield serving
