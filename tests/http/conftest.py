"""One HTTP face per test, over a client that needs no Redis: what is asked here is not the queue's to answer."""

from collections.abc import Callable, Iterator

import pytest
from starlette.testclient import TestClient

from rerankq.http import HttpSettings, create_app
from rerankq.testing import AsyncFakeRerankClient

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
