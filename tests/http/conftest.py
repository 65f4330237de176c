"""One HTTP face per test, over a client that needs no Redis: what is asked here is not the queue's to answer."""

from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from rerankq.http import HttpSettings, create_app
from rerankq.testing import AsyncFakeRerankClient
from tests.service import Service
from tests.witness import token_of

KILLS_THE_ENGINE = "kraken"

Face = Callable[..., TestClient]


@pytest.fixture
def fake() -> AsyncFakeRerankClient:
    return AsyncFakeRerankClient()


@pytest.fixture
def face(fake: AsyncFakeRerankClient) -> Iterator[Face]:
    """The face with these settings, asked from this machine."""
    made: list[TestClient] = []

    def _made(**settings: object) -> TestClient:
        app = create_app(fake, HttpSettings.load(**settings))  # type: ignore[arg-type]
        made.append(TestClient(app, base_url="http://127.0.0.1:8787"))
        return made[-1].__enter__()

    yield _made
    for client in made:
        client.__exit__()


@pytest.fixture
def http(face: Face) -> TestClient:
    return face()


@pytest.fixture(scope="session")
def witnessed() -> Iterator[Service]:
    """A service whose engine writes down what it scores, and dies of one word."""
    behaviour = f"pair_ms=2&die={token_of(KILLS_THE_ENGINE)}"
    with Service(engine=f"tests.witness:engine?{behaviour}", appendonly=True, max_attempts=2) as running:
        yield running


@pytest.fixture(scope="session")
def live(witnessed: Service) -> Iterator[TestClient]:
    """A face of it."""
    settings = HttpSettings.load(broker_url=witnessed.redis.url, redis_timeout_seconds=5.0)
    with TestClient(create_app(settings=settings), base_url="http://127.0.0.1") as client:
        yield client
