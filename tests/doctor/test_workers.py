"""What `rerankq doctor` makes of workers that tell of themselves in a real Redis."""

import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from rerankq import RerankClient
from rerankq.contract.findings import Finding, exit_code
from rerankq.contract.heartbeats import Heartbeats, WorkerStatus
from rerankq.contract.messages import LANES, Lane
from rerankq.doctor import of_workers
from rerankq.doctor.of_host import LauncherHere
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


@pytest.mark.parametrize(
    ("ahead_seconds", "verdict", "said"),
    [(0.0, "ok", "0.0 s"), (-90.0, "warn", "90 s from Redis's: two"), (3600.0, "warn", "3,600 s")],
)
def test_a_worker_whose_host_has_another_time_is_told(
    redis_server: RedisServer,
    heartbeats: Heartbeats,
    monkeypatch: pytest.MonkeyPatch,
    ahead_seconds: float,
    verdict: str,
    said: str,
) -> None:
    heartbeats.tell(worker("one"))
    there = SimpleNamespace(time=lambda: time.time() + ahead_seconds, monotonic=time.monotonic)
    monkeypatch.setattr("rerankq.contract.heartbeats.time", there)
    heartbeats.tell(worker("two"))

    found = of(look(redis_server), "workers.clock")

    assert found.verdict == verdict
    assert said in found.text


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


@pytest.mark.parametrize(
    ("lane", "waiting", "verdict"),
    [("bulk", 0, "warn"), ("bulk", 1, "broken"), ("interactive", 0, "broken")],
)
def test_a_lane_without_workers_is_broken_unless_its_jobs_may_wait_and_none_does(
    redis_server: RedisServer, heartbeats: Heartbeats, lane: Lane, waiting: int, verdict: str
) -> None:
    heartbeats.tell(worker("one", lanes=[each for each in LANES if each != lane]))
    with RerankClient(redis_server.url) as client:
        for _ in range(waiting):
            client.submit("q", ["a"], lane=lane)

    assert of(look(redis_server), f"workers.{lane}").verdict == verdict


@pytest.mark.parametrize(
    ("here", "verdict", "cure"),
    [
        (None, "broken", "rerankq-worker"),
        (LauncherHere(7, is_starting=True), "warn", "rerankq-worker health"),
        (LauncherHere(7, is_starting=False), "broken", 'RERANKQ_RUNTIME_DIR="$(mktemp -d)" rerankq-worker'),
    ],
    ids=["nobody", "starting", "elsewhere"],
)
def test_where_nobody_is_heard_of_it_counts_who_runs_on_this_host(
    redis_server: RedisServer, heartbeats: Heartbeats, here: LauncherHere | None, verdict: str, cure: str
) -> None:
    around = of_workers.Around(ClientSettings(broker_url=SecretStr(redis_server.url)))

    (found,) = of_workers.findings(around, lambda: here)

    assert (found.verdict, found.cure) == (verdict, cure)


def test_jobs_whose_workers_are_stuck_want_no_others(
    redis_server: RedisServer, heartbeats: Heartbeats
) -> None:
    heartbeats.tell(worker("one", state="stuck"))
    with RerankClient(redis_server.url) as client:
        client.submit("q", ["a"], lane="bulk")
        client.submit("q", ["a"], lane="bulk", model="a")

    found = look(redis_server)

    assert [each.check for each in found if each.verdict not in ("ok", "skipped")] == ["workers"]
