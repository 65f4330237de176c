"""Messages that vanish are missed, and only those: what a look at the front of a list says."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu import Connection

from rerankq.contract import keys
from rerankq.contract.transport import open_jobs
from rerankq.contract.transport.dead_letters import DeadLetters
from rerankq.contract.transport.envelope import RECORD_HEADER, deliveries
from rerankq.contract.transport.hooks import hooks
from tests.redis_server import RedisServer
from tests.transport.test_channel import get, publish, sweep

INDEX = keys.open_jobs("lane")


@pytest.fixture
def ended() -> Iterator[list[str]]:
    """Ids of the jobs that were found to have vanished."""
    ids: list[str] = []

    def end(job_id: str) -> bool:
        ids.append(job_id)
        return True

    hooks.end_vanished = end
    yield ids
    hooks.end_vanished = None


def push(connection: Connection, *ids: str) -> None:
    for job_id in ids:
        headers = {"id": job_id, RECORD_HEADER: keys.job(job_id)}
        publish(connection, "body", headers=headers)


def look(connection: Connection) -> None:
    channel = connection.default_channel
    channel.client.delete(keys.looked("lane"))  # nobody has just done so
    open_jobs.end_vanished(channel.client, channel.leases, "lane")


def test_an_open_job_is_closed_by_its_acknowledgement(
    server: RedisServer, connect: Callable[..., Connection]
) -> None:
    connection = connect()
    push(connection, "a", "b")

    get(connection).ack()

    with server.client() as client:
        assert client.zrange(INDEX, 0, -1) == [b"b"]


def test_what_waits_is_held_came_back_or_is_delayed_is_not_missed(
    connect: Callable[..., Connection], ended: list[str]
) -> None:
    connection, other = connect(), connect()
    push(connection, *"abcdefgh")
    taken = [get(connection) for _ in range(5)]
    for message in (taken[1], taken[3], taken[0]):  # they come back in another order
        connection.default_channel.hand_back(message.delivery_tag)
    connection.default_channel.hand_back(taken[2].delivery_tag, 60)

    look(other)

    assert ended == []


def test_what_was_on_a_deleted_list_is_missed_and_what_was_held_is_not(
    server: RedisServer, connect: Callable[..., Connection], ended: list[str]
) -> None:
    connection = connect()
    push(connection, *"abc")
    held = get(connection)
    with server.client() as client:
        client.delete("lane")

        look(connection)

        assert ended == ["b", "c"]
        held.ack()
        assert client.exists(INDEX) == 0


def test_a_dead_letter_that_was_sent_again_is_missed_only_when_it_vanishes(
    server: RedisServer, connect: Callable[..., Connection], ended: list[str]
) -> None:
    connection = connect()
    headers = {"id": "a", RECORD_HEADER: keys.job("a"), "x-deliveries": 99}
    publish(connection, "body", headers=headers)
    assert get(connection) is None
    with server.client() as client:
        assert DeadLetters(client).retry("a")

        look(connection)
        assert ended == []
        client.delete("lane")
        look(connection)
        assert ended == ["a"]


def test_what_vanished_before_others_came_is_missed(
    server: RedisServer, connect: Callable[..., Connection], ended: list[str]
) -> None:
    connection = connect()
    push(connection, "a", "b")
    connection.default_channel.queue_purge("lane")
    push(connection, "c", "d")

    look(connection)

    assert ended == ["a", "b"]


def test_a_job_sent_again_is_not_missed_for_its_first_message(
    server: RedisServer, connect: Callable[..., Connection], ended: list[str]
) -> None:
    connection = connect()
    push(connection, "a")
    with server.client() as client:
        client.delete("lane")
    push(connection, "b", "a")

    look(connection)

    assert ended == []


def test_of_two_copies_of_a_job_the_first_leaves_it_open(
    server: RedisServer, connect: Callable[..., Connection], ended: list[str]
) -> None:
    connection = connect()
    push(connection, "a", "b", "a")

    get(connection).ack()
    look(connection)

    with server.client() as client:
        assert client.zcard(INDEX) == 2
    assert ended == []


def test_a_clock_that_is_set_back_makes_nobody_miss_what_comes(
    server: RedisServer, connect: Callable[..., Connection], ended: list[str]
) -> None:
    connection = connect()
    push(connection, "a")
    with server.client() as client:
        raw: Any = client.rpop("lane")
        ahead = {**json.loads(raw), "pushed": 4_000_000_000_000_000}  # as of a clock in the year 2096
        client.rpush("lane", json.dumps(ahead))
        client.zadd(INDEX, {"a": ahead["pushed"]})
    push(connection, "b", "c")

    look(connection)

    assert ended == []


def test_a_message_of_another_sender_is_never_missed(
    server: RedisServer, connect: Callable[..., Connection], ended: list[str]
) -> None:
    connection = connect()
    publish(connection, "body", headers={"id": "a"})
    with server.client() as client:
        client.delete("lane")

    look(connection)

    assert ended == []


def test_a_job_that_could_not_be_ended_is_missed_again(
    server: RedisServer, connect: Callable[..., Connection]
) -> None:
    connection = connect()
    push(connection, "a")
    with server.client() as client:
        client.delete("lane")
    asked: list[str] = []
    hooks.end_vanished = lambda job_id: bool(asked.append(job_id))
    try:
        look(connection)
        look(connection)
    finally:
        hooks.end_vanished = None

    assert asked == ["a", "a"]


def test_something_else_in_place_of_the_index_keeps_no_job_from_its_lane(
    server: RedisServer, connect: Callable[..., Connection], ended: list[str]
) -> None:
    connection = connect()
    with server.client() as client:
        client.set(INDEX, "strange")

    push(connection, "a")
    look(connection)
    message = get(connection)
    message.ack()

    assert message.payload == "body"
    assert ended == []


def test_a_lease_that_vanished_is_given_anew_and_runs_out_with_its_worker(
    server: RedisServer, connect: Callable[..., Connection]
) -> None:
    dead, alive = connect(), connect()
    push(dead, "a")
    get(dead)
    with server.client() as client:
        client.delete("rerankq:leases")
        sweep(alive)
        assert client.zcard("rerankq:leases") == 1

    time.sleep(1.05)
    sweep(alive)

    assert deliveries(get(alive).headers) == 2
