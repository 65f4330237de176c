"""The face sends jobs with a known answer through each lane, and tells what became of them."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from rerankq.contract.errors import JobFailed, QueueFull
from rerankq.contract.heartbeats import WorkerStatus
from rerankq.contract.messages import LANES
from rerankq.contract.orders import Orders
from rerankq.http import HttpSettings, create_app
from rerankq.testing import AsyncFakeRerankClient
from tests.deploy.test_monitoring import CANARY_METRICS
from tests.http.conftest import Face
from tests.service import Service

Told = dict[tuple[str, str], float]


def told(http: TestClient) -> Told:
    """What `/metrics` says of canaries, by name and lane."""
    return {
        (sample.name, sample.labels["lane"]): sample.value
        for family in text_string_to_metric_families(http.get("/metrics").text)
        for sample in family.samples
        if sample.name.startswith("rerankq_canary")
    }


def when(http: TestClient, is_so: Callable[[Told], object]) -> Told:
    """The first answer of which it is true."""
    give_up_at = time.monotonic() + 20
    while not is_so(seen := told(http)):
        assert time.monotonic() < give_up_at, seen
        time.sleep(0.02)
    return seen


def test_no_canary_is_sent_unless_one_is_asked_for(http: TestClient, fake: AsyncFakeRerankClient) -> None:
    assert told(http) == {}
    assert fake.calls == []


def test_a_canary_of_each_lane_is_told_with_its_time_and_its_last_success(
    face: Face, fake: AsyncFakeRerankClient
) -> None:
    began = time.time()

    seen = when(face(http_canary_seconds=60), lambda seen: len(seen) == 6)

    assert seen.keys() == {(name, lane) for name in CANARY_METRICS for lane in LANES}
    for lane in LANES:
        assert seen["rerankq_canary_up", lane] == 1
        assert 0 < seen["rerankq_canary_seconds", lane] < 20
        assert began <= seen["rerankq_canary_last_success_timestamp_seconds", lane] <= time.time()
    assert sorted(call.lane for call in fake.calls) == sorted(LANES)


def test_a_canary_that_fails_is_down_and_the_next_one_up_again(
    face: Face, fake: AsyncFakeRerankClient, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in LANES:
        fake.fail_next(JobFailed("it broke"))

    http = face(http_canary_seconds=0.2)

    when(http, lambda seen: seen.get(("rerankq_canary_up", "bulk")) == 0)
    when(http, lambda seen: [seen["rerankq_canary_up", lane] for lane in LANES] == [1, 1])
    assert "canary through the bulk lane: JobFailed: it broke" in caplog.text


def served_by(*workers: tuple[str, bool]) -> list[WorkerStatus]:
    return [
        WorkerStatus(
            name=model, state="ready", lanes=LANES, device="cpu0", model=model, serves_unnamed=is_unnamed
        )
        for model, is_unnamed in workers
    ]


@pytest.mark.parametrize(
    ("workers", "named"),
    [
        (served_by(("a", True), ("a", True)), [None]),
        (served_by(("a", False), ("b", False), ("b", False)), ["a", "b"]),
        (served_by(("a", True), ("b", False)), [None, "b"]),
        ([replace(worker, is_draining=True) for worker in served_by(("a", False))], [None]),
    ],
    ids=["any takes what names none", "none does", "one does", "nobody takes jobs"],
)
def test_each_model_is_sent_a_canary_that_it_takes(
    face: Face,
    fake: AsyncFakeRerankClient,
    monkeypatch: pytest.MonkeyPatch,
    workers: list[WorkerStatus],
    named: list[str | None],
) -> None:
    async def told_workers(_: object) -> list[WorkerStatus]:
        return workers

    monkeypatch.setattr(AsyncFakeRerankClient, "workers", told_workers)

    when(face(http_canary_seconds=60), lambda seen: len(seen) == 6)

    for lane in LANES:
        assert [call.model for call in fake.calls if call.lane == lane] == named


@pytest.mark.parametrize("reason", ["lane_full", "too_much_ahead"])
def test_a_lane_that_bulk_work_fills_as_far_as_it_may_gets_no_canary_and_others_are_refused(
    face: Face, fake: AsyncFakeRerankClient, reason: str
) -> None:
    for _ in LANES:
        fake.fail_next(QueueFull("it is full", {"retry_after_seconds": 1, "reason": reason}))

    http = face(http_canary_seconds=0.5)

    when(http, lambda seen: seen.get(("rerankq_canary_up", "interactive")) == 0)
    seen = when(http, lambda seen: seen.get(("rerankq_canary_up", "interactive")) == 1)
    assert seen.get(("rerankq_canary_up", "bulk"), 1) == 1


@pytest.fixture
def watched(idle_service: Service) -> Iterator[TestClient]:
    """A face of a real service that sends one often."""
    settings = HttpSettings.load(
        broker_url=idle_service.redis.url,
        redis_timeout_seconds=5.0,
        http_canary_seconds=0.1,
        http_timeout_seconds=10.0,
    )
    with TestClient(create_app(settings=settings), base_url="http://127.0.0.1") as http:
        yield http


def test_canaries_through_a_real_service_are_up_and_rest_while_their_lane_is_paused(
    watched: TestClient, idle_service: Service
) -> None:
    with idle_service.redis.client() as redis:
        orders = Orders(redis)
        when(watched, lambda seen: len(seen) == 6)
        orders.pause("bulk", None, "test")
        time.sleep(1.2)  # one under way comes back, and none is sent
        last = told(watched)["rerankq_canary_last_success_timestamp_seconds", "bulk"]
        when(
            watched, lambda seen: seen["rerankq_canary_last_success_timestamp_seconds", "interactive"] > last
        )
        resting = told(watched)
        orders.resume("bulk", None)

    assert resting["rerankq_canary_last_success_timestamp_seconds", "bulk"] == last
    assert resting["rerankq_canary_up", "bulk"] == 1
    when(watched, lambda seen: seen["rerankq_canary_last_success_timestamp_seconds", "bulk"] > last)
