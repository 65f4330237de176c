"""A canary tells whether a lane answers, how soon, and whether the answer can be right."""

import asyncio

import pytest

from rerankq import canary
from rerankq.canary import BEST, DOCUMENTS, QUERY, Canary
from rerankq.contract.errors import QueueFull
from rerankq.contract.heartbeats import WorkerStatus
from rerankq.contract.messages import LANES, Lane
from rerankq.testing import AsyncFakeRerankClient, FakeRerankClient
from tests.service import Service


@pytest.mark.parametrize("lane", LANES)
def test_a_canary_through_a_service_that_works_finds_nothing_wrong(idle_service: Service, lane: Lane) -> None:
    told = canary.send(idle_service.client, lane, 30)

    assert told.wrong is None
    assert told.wait_seconds is not None
    assert 0 <= told.wait_seconds <= told.total_seconds < 30


def test_a_canary_goes_through_the_lane_it_is_told_and_names_the_model_it_is_told() -> None:
    client = FakeRerankClient()

    canary.send(client, "bulk", 30, model="a model")

    assert [(call.lane, call.model) for call in client.calls] == [("bulk", "a model")]


def test_a_canary_tells_what_kept_it_from_an_answer() -> None:
    client = AsyncFakeRerankClient()
    client.fail_next(QueueFull("the lane is full"))

    told = asyncio.run(canary.send_async(client, "interactive", 30))

    assert told.wrong == "QueueFull: the lane is full"
    assert told.wait_seconds is None


def test_a_canary_whose_best_document_is_not_first_says_so() -> None:
    ranking = FakeRerankClient().rerank(QUERY, DOCUMENTS)
    upside_down = ranking.model_copy(update={"results": ranking.results[::-1]})

    wrong = Canary("bulk", 0.1, upside_down).wrong

    assert ranking.results[0].index == BEST
    assert wrong is not None
    assert wrong.startswith("expected document 1 of the canary to come first, got the order [")


@pytest.mark.parametrize(
    ("lane", "pace", "seconds"),
    [
        pytest.param("bulk", 4.0, 25 + 2 * (10 + 2) * 4 / 2, id="bulk waits its turn"),
        pytest.param("bulk", None, 25, id="of a pace nobody knows"),
        pytest.param("interactive", 4.0, 25, id="interactive waits for nobody"),
    ],
)
def test_a_canary_has_patience_with_what_is_before_it_in_the_bulk_lane(
    lane: Lane, pace: float | None, seconds: float
) -> None:
    paces: dict[Lane, float] = {} if pace is None else {lane: pace}
    workers = [WorkerStatus(name=name, state="busy", lanes=LANES, seconds_per_job=paces) for name in "ab"]

    assert canary.patience_seconds(lane, 25, 10, workers) == seconds
