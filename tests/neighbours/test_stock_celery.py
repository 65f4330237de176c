"""A stock Celery application on the database of our service: neither disturbs the other, and their tasks join hands."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery, chain, chord, group, signature
from celery.canvas import Signature
from celery.exceptions import ChordError
from celery.result import AsyncResult
from kombu.utils.uuid import uuid

import rerankq.celery
from tests.neighbours import stock
from tests.service import Service

RERANK = {"queue": "rerankq.interactive"}
PATIENCE_SECONDS = 30


@pytest.fixture(scope="module")
def service(idle_service: Service) -> Service:
    return idle_service


@pytest.fixture(scope="module")
def stock_log(service: Service) -> Iterator[Path]:
    """A stock worker's log; it has started beside ours."""
    with stock.working(service.redis.url) as log:
        yield log


@pytest.fixture(scope="module")
def shop(service: Service, stock_log: Path) -> Iterator[Celery]:
    """The stock application, as its own producers have it."""
    with stock.asking(service.redis.url) as app:
        yield app


def ranked(shop: Celery, **fields: object) -> Signature:
    return rerankq.celery.signature(**fields, app=shop)


def rerank(shop: Celery, **fields: object) -> "signature":
    return shop.signature("rerankq.rerank", kwargs=fields, options=RERANK)


def test_a_stock_worker_starts_beside_ours_and_hears_nothing_it_cannot_read(stock_log: Path) -> None:
    log = stock_log.read_text()

    assert "ready." in log
    assert "sync with" in log  # it met ours at mingle
    assert "ContentDisallowed" not in log
    assert "Traceback" not in log


def test_both_applications_workers_answer_a_stock_inspect(shop: Celery) -> None:
    answers = shop.control.inspect(timeout=10, limit=3).ping()

    assert {name.split("@")[0] for name in answers} == {"stock", "cpu0-interactive", "cpu0-bulk"}
    assert all(answer == {"ok": "pong"} for answer in answers.values())


@pytest.fixture(scope="module")
def ours(shop: Celery) -> list[str]:
    """The names of our workers."""
    return [name for name in shop.control.inspect(timeout=10, limit=3).ping() if name.startswith("cpu0-")]


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("add_consumer", {"queue": "shop"}),
        ("pool_grow", {"n": 1}),
        ("pool_shrink", {"n": 1}),
        ("autoscale", {"max": 3, "min": 0}),
    ],
)
def test_ours_stay_as_they_are_whatever_an_operator_tells_all_workers(
    command: str, arguments: dict[str, object], shop: Celery, service: Service, ours: list[str]
) -> None:
    replies = shop.control.broadcast(
        command, arguments=arguments, destination=ours, reply=True, timeout=3, limit=2
    )

    assert sorted(list(reply) for reply in replies) == sorted([name] for name in ours)
    assert all("error" in answer for reply in replies for answer in reply.values())
    assert service.client.rerank("panda", ["a"]).complete


CANVASES: dict[str, Callable[[Celery], Signature]] = {
    "documents of the task before": lambda shop: (
        shop.signature("shop.search", ("panda",)) | ranked(shop, query="panda")
    ),
    "a chord's body": lambda shop: chord(
        [shop.signature("shop.search", ("panda",)), shop.signature("shop.retrieve", ("panda",))],
        ranked(shop, query="panda"),
        app=shop,
    ),
    "a list in a chord's body": lambda shop: chord(
        [shop.signature("shop.retrieve", ("panda",))] * 2, ranked(shop, top_n=1), app=shop
    ),
    "head and tail": lambda shop: (
        ranked(shop, query="panda", documents=["a"])
        | shop.signature("shop.retrieve", ("panda",), immutable=True)
        | ranked(shop)
    ),
    "a nested chord": lambda shop: (
        shop.signature("shop.retrieve", ("panda",))
        | group(ranked(shop), chain(ranked(shop), shop.signature("shop.consume")), app=shop)
        | shop.signature("shop.search", ("panda",), immutable=True)
        | ranked(shop, query="panda")
    ),
    "what another task replaced itself by": lambda shop: shop.signature("shop.delegate", ("panda",)),
    "immutable": lambda shop: (
        shop.signature("shop.search", ("panda",))
        | ranked(shop, query="panda", documents=["a"]).set(immutable=True)
    ),
    "later, with a priority": lambda shop: ranked(shop, query="panda", documents=["a"]).set(
        countdown=1, priority=9, expires=60
    ),
}


@pytest.fixture(scope="module")
def begun(shop: Celery) -> dict[str, AsyncResult]:
    """All of them under way at once: each waits a second or two for its bells."""
    return {name: canvas(shop).apply_async() for name, canvas in CANVASES.items()}


@pytest.mark.parametrize("canvas", CANVASES)
def test_a_canvas_with_ours_in_it_ends_in_a_ranking(canvas: str, begun: dict[str, AsyncResult]) -> None:
    ranking = begun[canvas].get(PATIENCE_SECONDS)

    assert ranking["complete"]
    assert ranking["scored"] == len(ranking["results"]) or len(ranking["results"]) == 1


def test_tasks_before_ours_that_disagree_are_told_apart(shop: Celery) -> None:
    header = [shop.signature("shop.retrieve", (query,)) for query in ("panda", "bear")]

    with pytest.raises(Exception, match="query: expected the tasks before this one to agree"):
        chord(header, app=shop)(ranked(shop)).get(PATIENCE_SECONDS)


def test_a_result_is_a_plain_dictionary_to_a_stock_application(shop: Celery) -> None:
    ranking = rerank(shop, query="panda", documents=["a bear", "a bird"]).apply_async().get(PATIENCE_SECONDS)

    assert type(ranking) is dict
    assert [result["index"] for result in ranking["results"]] == [0, 1]


def test_a_group_and_a_chord_of_ours_come_together(shop: Celery) -> None:
    header = [rerank(shop, query="panda", documents=["a", "b"]) for _ in range(3)]

    assert [ranking["scored"] for ranking in group(header, app=shop)().get(PATIENCE_SECONDS)] == [2, 2, 2]
    assert chord(header, app=shop)(shop.signature("shop.gather")).get(PATIENCE_SECONDS) == 6


def test_an_error_of_ours_arrives_by_name_and_calls_the_callers_errback(
    shop: Celery, service: Service
) -> None:
    broken = rerank(shop, query="", documents=["a"]).on_error(shop.signature("shop.note"))
    job = broken.apply_async(link=shop.signature("shop.consume"))

    with pytest.raises(Exception, match="query") as caught:
        job.get(PATIENCE_SECONDS)

    assert type(caught.value).__name__ == "InvalidRequest"
    with service.redis.client() as redis:
        service.wait_until(lambda: redis.llen("shop:noted") == 1, PATIENCE_SECONDS)
        assert job.id in redis.lindex("shop:noted", 0).decode()


def test_the_words_of_a_neighbours_error_stay_out_of_our_log(shop: Celery, service: Service) -> None:
    refused = shop.signature("shop.refuse", args=["zanzibar"])
    ours_ends_it = rerank(shop, query="panda", documents=["a"]).set(countdown=0.5)

    gathered = chord([refused, ours_ends_it], app=shop)(shop.signature("shop.gather"))

    with pytest.raises(ChordError, match="zanzibar"):
        shop.AsyncResult(gathered.id).get(PATIENCE_SECONDS)
    service.wait_until(lambda: "raised: 'ChordError'" in service.log(), PATIENCE_SECONDS)
    assert "zanzibar" not in service.log()


ENDS = [
    pytest.param({"shadow": 5}, id="set aside: unusable"),
    pytest.param({"headers": {"x-deliveries": 4}}, id="set aside: given up"),
    pytest.param({"expires": 0.0001}, id="expired"),
    pytest.param({}, id="called off"),
]


@pytest.mark.parametrize("options", ENDS)
def test_a_job_that_ends_without_running_ends_its_chord_its_chain_and_calls_its_errback(
    options: dict[str, object], shop: Celery, service: Service
) -> None:
    job_id = uuid()
    service.client.cancel(job_id)
    ended = rerank(shop, query="panda", documents=["a"]).set(task_id=job_id, **options)
    ended = ended.on_error(shop.signature("shop.note"))
    other = rerank(shop, query="panda", documents=["b"])

    gathered = chord([chain(ended, shop.signature("shop.consume")), other], app=shop)(
        shop.signature("shop.gather")
    )

    with pytest.raises(ChordError):
        shop.AsyncResult(gathered.id).get(PATIENCE_SECONDS)
    assert gathered.parent.results[0].state in ("FAILURE", "REVOKED")  # that of `shop.consume`
    with service.redis.client() as redis:
        service.wait_until(
            lambda: job_id in b"".join(redis.lrange("shop:noted", 0, -1)).decode(), PATIENCE_SECONDS
        )


def test_a_ring_for_a_queue_where_nobody_hears_it_fades(shop: Celery, service: Service) -> None:
    chain(rerank(shop, query="panda", documents=["a"]), shop.signature("shop.consume")).apply_async().get(
        PATIENCE_SECONDS
    )

    with service.redis.client() as redis:
        assert 0 < redis.ttl("celery.bell") <= 60
