"""A queue that stands for several lists: read in turns, and a message handed on from one to another."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import Connection, Consumer, Queue

from rerankq.contract import keys
from rerankq.contract.transport.envelope import PUSHED, RECORD_HEADER, deliveries
from rerankq.contract.transport.hooks import hooks
from rerankq.contract.transport.outage import adopt_carried
from tests.redis_server import RedisServer
from tests.transport.test_channel import get, publish, sweep
from tests.transport.test_open_jobs import ended as ended  # a fixture

LISTS = {"urgent": ["urgent", "urgent@a"], "lane": ["lane", "lane@a", "lane@b"]}


@pytest.fixture(autouse=True)
def _several() -> Iterator[None]:
    hooks.lists_of = lambda queue: LISTS.get(queue, [queue])
    yield
    hooks.lists_of = None


def taken(connection: Connection, count: int) -> list[Any]:
    """The payloads of so many messages, as a consumer of both queues gets them."""
    found: list[Any] = []

    def take(body: object, message: Any) -> None:
        found.append(body)
        message.ack()

    queues = [Queue(name, durable=False) for name in LISTS]
    with Consumer(connection.default_channel, queues, callbacks=[take]):
        while len(found) < count:
            connection.drain_events(timeout=5)
    return found


def test_none_of_a_queues_lists_starves_the_others(connect: Callable[..., Connection]) -> None:
    connection = connect(queue_order_strategy="priority")
    for name in LISTS["lane"]:
        publish(connection, *(f"{name} {number}" for number in range(4)), queue=name)

    assert taken(connection, 12) == [f"{name} {number}" for number in range(4) for name in LISTS["lane"]]


def test_one_list_alone_is_read_without_waiting_for_the_others(connect: Callable[..., Connection]) -> None:
    connection = connect(queue_order_strategy="priority")
    publish(connection, *range(5), queue="lane@b")

    assert taken(connection, 5) == [0, 1, 2, 3, 4]


def test_all_lists_of_the_queue_named_first_go_before_those_of_the_next(
    connect: Callable[..., Connection],
) -> None:
    connection = connect(queue_order_strategy="priority")
    for name in ("lane@a", "lane", "urgent@a", "urgent"):
        publish(connection, f"{name} 0", f"{name} 1", queue=name)

    assert [each.partition(" ")[0] for each in taken(connection, 8)][:4] == ["urgent", "urgent@a"] * 2


def test_a_message_goes_back_to_the_list_that_it_came_from(
    server: RedisServer, connect: Callable[..., Connection]
) -> None:
    connection = connect()
    publish(connection, "one", queue="lane@b")

    get(connection).channel.qos.restore_unacked()

    with server.client() as client:
        assert (client.llen("lane"), client.llen("lane@b")) == (0, 1)


def handed_on(connection: Connection, *, headers: dict[str, str] | None = None) -> None:
    publish(connection, "first", queue="lane@b", headers=headers and {**headers, "id": "first"})
    publish(connection, "moved", queue="lane", headers=headers)
    get(connection).hand_on("lane@b")


def test_a_message_that_is_handed_on_waits_behind_those_of_the_other_list_uncounted(
    server: RedisServer, connect: Callable[..., Connection]
) -> None:
    connection = connect()
    handed_on(connection)

    with server.client() as client:
        assert client.keys("rerankq:*") == [b"rerankq:totals"]
        assert (client.llen("lane"), client.llen("lane@b.bell")) == (0, 2)
    first, moved = get(connection), get(connection)
    assert (first.payload, moved.payload) == ("first", "moved")
    assert deliveries(moved.headers) == 1


def test_the_job_of_a_message_that_is_handed_on_is_open_where_it_is(
    server: RedisServer, connect: Callable[..., Connection], ended: list[str]
) -> None:
    connection = connect()
    with server.client() as client:
        client.hset(keys.job("j"), mapping={"lane": "bulk", "published": 1})
        handed_on(connection, headers={"id": "j", RECORD_HEADER: keys.job("j")})

        record: Any = client.hgetall(keys.job("j"))
        pushed = json.loads(client.lindex("lane@b", 0))[PUSHED]  # pyright: ignore[reportArgumentType]
        assert client.zscore(keys.open_jobs("lane"), "j") is None
        assert client.zscore(keys.open_jobs("lane@b"), "j") == pushed == int(record[b"published"])
        assert record[b"queue"] == b"lane@b"
        taken(connection, 2)
        sweep(connection)
        assert (client.exists(keys.open_jobs("lane@b")), ended) == (0, [])


def test_a_copy_of_a_job_that_is_open_on_the_other_list_is_dropped(
    server: RedisServer, connect: Callable[..., Connection]
) -> None:
    connection, headers = connect(), {"id": "j", RECORD_HEADER: keys.job("j")}
    publish(connection, "the job", queue="lane@b", headers=headers)
    publish(
        connection, "a copy, of a client that looks on the common list alone", queue="lane", headers=headers
    )

    get(connection, "lane").hand_on("lane@b")

    with server.client() as client:
        assert (client.llen("lane"), client.llen("lane@b"), client.hlen("rerankq:held")) == (0, 1, 0)
        assert client.exists(keys.open_jobs("lane"), keys.open_jobs("lane@b")) == 1


def test_a_message_that_is_handed_on_is_missed_when_it_vanishes(
    server: RedisServer, connect: Callable[..., Connection], ended: list[str]
) -> None:
    connection = connect()
    handed_on(connection, headers={"id": "j", RECORD_HEADER: keys.job("j")})
    with server.client() as client:
        client.delete("lane@b")

        with Consumer(connection.default_channel, [Queue("lane", durable=False)]):
            sweep(connection)

        assert ended == ["first", "j"]


def test_a_message_that_cannot_be_handed_on_stays_held_until_it_can(
    server: RedisServer, connect: Callable[..., Connection]
) -> None:
    connection = connect()
    publish(connection, "one")
    message = get(connection)

    with server.client() as client:
        client.set("lane@b", "something else")
        message.hand_on("lane@b")
        assert client.hlen("rerankq:held") == 1
        client.delete("lane@b")
        adopt_carried(connection.default_channel)
        assert (client.hlen("rerankq:held"), client.llen("lane@b")) == (0, 1)
