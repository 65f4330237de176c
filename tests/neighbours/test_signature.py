"""`rerankq.celery`: what a Celery application sends with it, without sending it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from kombu import Queue
from kombu.serialization import loads

import rerankq.celery
from rerankq import InvalidRequest, InvalidSettings, RerankClient
from rerankq.contract import keys
from tests.conftest import REPOSITORY
from tests.redis_server import RedisServer


@pytest.fixture
def shop(redis_server: RedisServer) -> Iterator[Celery]:
    """An application with a default queue and routes of its own, whose tasks are pickled."""
    with redis_server.client() as redis:
        redis.flushall()
    with Celery("shop", broker=redis_server.url, backend=redis_server.url, set_as_current=False) as app:
        app.conf.update(
            task_default_queue="shop",
            task_routes={"shop.show": {"queue": "shop.pages"}},
            task_serializer="pickle",
            accept_content=["pickle", "json"],
        )
        rerankq.celery.route(app)
        yield app
        app.backend.result_consumer.stop()
        app.backend.result_consumer._pubsub = (
            None  # results that outlive the server have nothing to unsubscribe
        )


def sent(app: Celery, queue: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Headers, keyword arguments and attachments of the one message on a queue."""
    with app.connection() as connection, connection.channel() as channel:
        message = channel.basic_get(queue, no_ack=True)
        assert message is not None, f"nothing lies on {queue}"
        assert channel.basic_get(queue, no_ack=True) is None
        assert message.content_type == "application/json"
        _, kwargs, attached = loads(message.body, "application/json", "utf-8")
        return message.headers, kwargs, attached


def test_a_request_goes_to_its_lane_as_json_and_shows_no_text(shop: Celery) -> None:
    rerankq.celery.signature(
        "panda", ["a bear", {"text": "a bird", "id": "b"}], lane="bulk", app=shop
    ).delay()

    headers, kwargs, _ = sent(shop, "rerankq.bulk")

    assert kwargs == {
        "query": "panda",
        "documents": ["a bear", {"text": "a bird", "id": "b"}],
        "lane": "bulk",
    }
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("()", "docs=2 chars=17 top_n=all")


def test_a_request_of_words_that_are_newer_says_which_version_reads_it(shop: Celery) -> None:
    rerankq.celery.signature(max_windows_per_doc=4, instruction="answers", app=shop).delay()

    _, kwargs, _ = sent(shop, "rerankq.interactive")

    expected = {"long_documents": "windows", "max_windows_per_doc": 4, "instruction": "answers"}
    assert kwargs == {**expected, "version": 2}


def test_the_model_that_a_task_names_is_known_as_asked_for(shop: Celery, redis_server: RedisServer) -> None:
    rerankq.celery.signature("panda", ["a"], model="org/misspelt", app=shop).delay()
    shop.send_task("rerankq.rerank", kwargs={"query": "panda", "documents": ["a"], "model": "by/hand"})

    with RerankClient(redis_server.url) as client:
        assert client.model_lanes()["interactive", "org/misspelt"] == 1
    with redis_server.client() as redis:
        assert set(redis.zrange(keys.MODELS, 0, -1)) == {b"org/misspelt", b"by/hand"}


def test_a_task_named_by_hand_finds_its_lane(shop: Celery) -> None:
    shop.send_task("rerankq.rerank", kwargs={"query": "panda", "documents": ["a"]})

    assert sent(shop, "rerankq.interactive")[0]["task"] == "rerankq.rerank"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"query": ""}, "query: expected a query"),
        ({"documents": []}, "documents: expected at least one"),
        ({"documents": "a bear"}, "documents: expected a list"),
        ({"topn": 1}, "topn: no such field; did you mean top_n?"),
        ({"lane": "fast"}, "lane: "),
        ({"return_documents": True}, "return_documents: texts do not travel back"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_is_told_where_it_is_made(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint.replace("?", r"\?")):
        rerankq.celery.signature(**fields)


def test_what_follows_ours_names_the_queue_that_its_application_routes_it_to(shop: Celery) -> None:
    task, ranked = shop.signature, rerankq.celery.signature(top_n=1, app=shop)
    ranked.set(link_error=task("shop.note", queue="shop.errors"))
    several = group(
        task("shop.show"), chord([task("shop.show"), task("shop.count")], task("shop.show"), app=shop)
    )

    chain(ranked, several, app=shop).apply_async(({"query": "panda", "documents": ["a"]},))

    *_, attached = sent(shop, "rerankq.interactive")
    assert attached["errbacks"][0]["options"]["queue"] == "shop.errors"
    shown, counted = attached["chain"][0]["kwargs"]["tasks"]
    assert shown["options"]["queue"] == "shop.pages"
    header = counted["kwargs"]["header"]
    tasks = header["kwargs"]["tasks"] if isinstance(header, dict) else header
    assert [task["options"]["queue"] for task in tasks] == ["shop.pages", "shop"]
    assert counted["kwargs"]["body"]["options"]["queue"] == "shop.pages"


def test_a_worker_of_the_application_does_not_take_what_it_has_sent_to_us(shop: Celery) -> None:
    rerankq.celery.signature("panda", ["a"], app=shop).delay()

    assert list(shop.amqp.queues.consume_from) == ["shop"]


@pytest.mark.parametrize(
    "routes",
    [None, {"*": "celery"}, ({"a.*": "a"},), lambda *_, **__: "celery"],
    ids=["none", "one for all", "a tuple", "a function"],
)
def test_a_route_is_added_before_those_there_are(routes: Any, redis_server: RedisServer) -> None:
    with Celery("shop", broker=redis_server.url, set_as_current=False) as app:
        app.conf.task_routes = routes
        assert app.amqp.router.route({}, "rerankq.rerank")["queue"].name == "celery"

        rerankq.celery.route(app)
        rerankq.celery.route(app)

        assert app.amqp.router.route({}, "rerankq.rerank")["queue"].name == "rerankq.interactive"
        assert len(app.conf.task_routes) == (1 if routes is None else 2)


def test_a_route_of_ones_own_to_a_lane_is_left(redis_server: RedisServer) -> None:
    with Celery("shop", broker=redis_server.url, set_as_current=False) as app:
        app.conf.task_routes = {"rerankq.rerank": "rerankq.bulk"}

        rerankq.celery.route(app)

        assert app.conf.task_routes == {"rerankq.rerank": "rerankq.bulk"}


def test_an_application_that_makes_no_queues_sends_to_the_lanes_and_reads_none(
    redis_server: RedisServer,
) -> None:
    with Celery("shop", broker=redis_server.url, set_as_current=False) as app:
        app.conf.update(task_create_missing_queues=False, task_queues=[Queue("celery")])
        rerankq.celery.route(app)

        rerankq.celery.signature("panda", ["a"], lane="bulk", app=app).delay()
        rerankq.celery.signature("panda", ["a"], model="org/name", app=app).delay()

        assert list(app.amqp.queues.consume_from) == ["celery"]


@pytest.mark.parametrize("option", ["broker_transport_options", "result_backend_transport_options"])
def test_an_application_whose_keys_have_a_prefix_is_told_that_ours_have_none(option: str) -> None:
    with Celery("shop", set_as_current=False) as app:
        app.conf[option] = {"global_keyprefix": "shop:"}

        with pytest.raises(InvalidSettings, match=f"no global_keyprefix in {option}"):
            rerankq.celery.route(app)


def test_the_examples_of_the_documentation_send_what_they_say(redis_server: RedisServer) -> None:
    text = (REPOSITORY / "docs" / "celery.md").read_text(encoding="utf-8")
    tasks = "from celery import signature\nclass search: s = lambda *given: signature('shop.search', given)\n"
    code = tasks + "show = search\n" + "".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    with redis_server.client() as redis:
        redis.flushall()

        subprocess.run([sys.executable, "-c", code.replace("redis://…", redis_server.url)], check=True)

        assert (redis.llen("celery"), redis.llen("rerankq.interactive")) == (1, 1)


def test_another_application_of_the_process_keeps_its_own_way_of_sending(
    shop: Celery, redis_server: RedisServer
) -> None:
    with Celery("other", broker=redis_server.url, set_as_current=False) as other:
        other.conf.task_routes = {"rerankq.*": rerankq.celery.ROUTES["rerankq.*"]}
        follower = other.signature("other.show", immutable=True)
        chain(rerankq.celery.signature("panda", ["a"], app=other), follower, app=other).delay()

    (after,) = sent(shop, "rerankq.interactive")[2]["chain"]

    assert "queue" not in after["options"]
