"""One service for every fault that leaves it standing: its engine misbehaves on words, and writes what it scored."""

from collections.abc import Iterator

import pytest
from celery import Celery
from redis import Redis

from rerankq import RerankClient
from tests.service import Service
from tests.witness import token_of

collect_ignore = ["long"]  # for `make test-faults`, which names it
KILLS_THE_ENGINE = "kraken"
HANGS_THE_ENGINE = "quicksand"
FILLS_THE_MEMORY = "elephant"
LEASE_SECONDS = 3.0


@pytest.fixture(scope="session")
def service() -> Iterator[Service]:
    words = {"die": KILLS_THE_ENGINE, "hang": HANGS_THE_ENGINE, "out_of_memory": FILLS_THE_MEMORY}
    behaviour = "&".join(f"{what}={token_of(word)}" for what, word in words.items())
    with Service(
        engine=f"tests.witness:engine?batch_ms=20&pair_ms=2&load_ms=1000&{behaviour}",
        max_batch_pairs=8,
        stuck_after_seconds=2,
        drain_seconds=1,
        lease_seconds=LEASE_SECONDS,
    ) as running:
        yield running


@pytest.fixture
def client(service: Service) -> RerankClient:
    return service.client


@pytest.fixture
def stranger(service: Service) -> Iterator[Celery]:
    """A client that is none of ours and sends plain JSON."""
    app = Celery("stranger", broker=service.redis.url, backend="disabled://", set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def redis(service: Service) -> Iterator["Redis"]:
    with service.redis.client() as client:
        yield client


def documents(count: int) -> list[str]:
    """So many texts, no two alike; eight of them take the double 36 ms."""
    return [f"document {number}" for number in range(count)]
