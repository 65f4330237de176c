"""One Redis per test, and a producer on it."""

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from rerankq.contract.transport.connection import LeasedConnection
from tests.redis_server import RedisServer
from tests.transport.app import make_app


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


CHANNEL_OPTIONS: dict[str, Any] = {
    "visibility_timeout": 1,
    "unacked_restore_interval": 0.1,
    "priority_steps": [0],
    "backoff_seconds": [0, 0.5],
}


@pytest.fixture
def app(server: RedisServer) -> Iterator[Celery]:
    made = make_app(server.url)
    yield made
    made.close()
    gc.collect()  # promises that a failed assertion keeps alive unsubscribe while there is a server


@pytest.fixture
def connect(server: RedisServer) -> Iterator[Callable[..., LeasedConnection]]:
    opened: list[LeasedConnection] = []

    def open_one(**options: Any) -> LeasedConnection:
        opened.append(LeasedConnection(server.url, transport_options={**CHANNEL_OPTIONS, **options}))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def wait_until() -> Callable[..., None]:
    def wait(is_true: Callable[[], object], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not is_true():
            assert time.monotonic() < deadline, f"not true within {seconds} s"
            time.sleep(0.02)

    return wait
