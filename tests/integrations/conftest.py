"""What the adapters ask: a service and its HTTP face that somebody started (`make test-neighbours` does), or none."""

import os

import pytest


def _address(name: str) -> str:
    if name not in os.environ:
        pytest.skip(f"{name} names no service: `make test-neighbours` does")
    return os.environ[name]


@pytest.fixture(params=["ASKED_QUEUE", "ASKED_FACE"], ids=["over the queue", "over HTTP"])
def where(request: pytest.FixtureRequest) -> dict[str, str]:
    """An adapter's arguments for each of the two ways."""
    url = _address(request.param)
    return {"url": url, "api_key": os.environ["ASKED_KEY"]} if url.startswith("http") else {"url": url}


@pytest.fixture
def queue() -> str:
    return _address("ASKED_QUEUE")


@pytest.fixture
def face() -> dict[str, str]:
    return {"url": _address("ASKED_FACE"), "api_key": os.environ["ASKED_KEY"]}
