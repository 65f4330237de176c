"""One Redis per test, and a producer on it."""

import gc
import time
from collections.abc import Callable, Iterator

import pytest
from celery import Celery

from rerankq.contract import transport
from tests.redis_server import RedisServer
from tests.transport.app import make_app


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def app(server: RedisServer) -> Iterator[Celery]:
    transport.install()
    made = make_app(server.url)
    yield made
    made.close()
    gc.collect()  # promises that a failed assertion keeps alive unsubscribe while there is a server


@pytest.fixture
def wait_until() -> Callable[..., None]:
    def wait(is_true: Callable[[], object], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < deadline, f"not true within {seconds} s"
            time.sleep(0.02)

    return wait
