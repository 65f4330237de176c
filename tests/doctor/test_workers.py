"""What `rerankq doctor` makes of workers that tell of themselves in a real Redis."""

from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from rerankq import RerankClient
from rerankq.contract.findings import Finding, exit_code
from rerankq.contract.heartbeats import Heartbeats, WorkerStatus
from rerankq.doctor import of_workers
from rerankq.settings import ClientSettings
from tests.doctor.following import of
from tests.redis_server import RedisServer


@pytest.fixture
def heartbeats(redis_server: RedisServer) -> Iterator[Heartbeats]:
    with redis_server.client() as client:
        client.flushall()
        yield Heartbeats(client)


def worker(name: str, **told: object) -> WorkerStatus:
    usual = {
        "state": "ready",
        "lanes": ("interactive", "bulk"),
        "model": "a",
        "revision": "1",
        "version": "1.0",
    }
    return WorkerStatus(name=name, **(usual | told))  # pyright: ignore[reportArgumentType]


def look(server: RedisServer) -> list[Finding]:
    return [*of_workers.findings(of_workers.Around(ClientSettings(broker_url=SecretStr(server.url))))]


@pytest.mark.parametrize(
    ("told", "check", "cure", "code"),
    [
        ({"state": "broken"}, "workers", "rerankq-worker doctor", 2),
        ({"state": "stuck"}, "workers", "rerankq-worker doctor", 2),
        ({"state": "loading"}, "workers", "rerankq-worker health", 1),
        ({"version": "0.1.0"}, "workers.version", "pip install --upgrade rerankq", 1),
        ({"version": ""}, "workers.version", "pip install --upgrade rerankq", 1),
        ({"model": "b"}, "workers.models", "RERANKQ_SERVE_UNNAMED=false rerankq-worker", 1),
        ({"revision": "2"}, "workers.models", "RERANKQ_SERVE_UNNAMED=false rerankq-worker", 1),
        ({"model": "b", "serves_unnamed": False}, "workers.models", "", 0),
    ],
    ids=str,
)
def test_a_second_worker_that_is_not_as_the_first_is_told(
    redis_server: RedisServer,
    heartbeats: Heartbeats,
    told: dict[str, object],
    check: str,
    cure: str,
    code: int,
) -> None:
    heartbeats.tell(worker("one"))
    heartbeats.tell(worker("two", **told))

    found = look(redis_server)

    assert (of(found, check).cure, exit_code(found)) == (cure, code), found


def test_a_lane_whose_workers_all_load_is_no_second_failure(
    redis_server: RedisServer, heartbeats: Heartbeats
) -> None:
    heartbeats.tell(worker("one", state="broken"))

    found = look(redis_server)

    assert [each.check for each in found if each.verdict == "broken"] == ["workers"]
    assert of(found, "workers.bulk").verdict == "skipped"


def test_unnamed_jobs_that_nobody_takes_are_told(redis_server: RedisServer, heartbeats: Heartbeats) -> None:
    heartbeats.tell(worker("one", serves_unnamed=False))
    with RerankClient(redis_server.url) as client:
        client.submit("q", ["a"], lane="bulk")

    found = of(look(redis_server), "workers.models")

    assert (found.verdict, found.cure) == ("warn", "RERANKQ_SERVE_UNNAMED=true rerankq-worker")
