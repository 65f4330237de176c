"""Why a message was handed to a worker is counted in the step that hands it over."""

import time
from collections.abc import Callable

import pytest
from kombu import Connection

from rerankq.contract import keys
from rerankq.contract.errors import JobFailed
from rerankq.contract.totals import CAUSES, totals_in
from rerankq.contract.transport.dead_letters import DeadLetters, letter_for
from rerankq.contract.transport.leases import held_by_list
from tests.redis_server import RedisServer
from tests.transport.test_channel import get, publish, sweep


def counted(server: RedisServer, totals: str = "rerankq:totals") -> dict[str, int]:
    """The deliveries of each cause that had any."""
    with server.client() as client:
        return {
            cause: count for cause, count in totals_in(client.hgetall(totals)).deliveries.items() if count
        }


def lose_the_lease(connection: Connection, wait_until: Callable[..., None]) -> None:
    get(connection)
    connection.default_channel.qos._delivered.clear()  # as of a worker that is gone
    time.sleep(1.1)
    sweep(connection)


def retry(connection: Connection) -> None:
    message = get(connection)
    letter = letter_for("t", "lane", b"", {"headers": message.headers}, JobFailed("given up"))
    message.set_aside(letter)
    with connection.default_channel.conn_or_acquire() as client:
        assert DeadLetters(client).retry(letter.id)


AGAIN: dict[str, Callable[..., object]] = {
    "attempt_lost": lambda connection, _: get(connection).requeue(),
    "handed_back": lambda connection, _: get(connection).hand_back(),
    "handed_on": lambda connection, _: get(connection).hand_on("lane"),
    "lease_lost": lose_the_lease,
    "retried": lambda connection, _: retry(connection),
}


@pytest.mark.parametrize("cause", AGAIN)
def test_a_delivery_is_counted_by_its_cause(
    server: RedisServer, connect: Callable[..., Connection], wait_until: Callable[..., None], cause: str
) -> None:
    connection = connect()
    publish(connection, "one", headers={"id": "job-1"})

    AGAIN[cause](connection, wait_until)
    get(connection).hand_back()
    get(connection).ack()

    expected = {"first": 1, cause: 1, "handed_back": 1} if cause != "handed_back" else {"first": 1, cause: 2}
    assert counted(server) == expected


@pytest.mark.parametrize(
    "record", [{"submitted": "1.5", "counted": 1}, {"counted": 1}], ids=["ours", "a stranger's"]
)
def test_a_retried_job_is_as_new_to_whoever_counts_how_long_jobs_wait(
    server: RedisServer, connect: Callable[..., Connection], record: dict[str, str]
) -> None:
    connection = connect()
    with server.client() as client:
        client.hset(keys.job("job-1"), mapping=record)
        publish(connection, "one", headers={"id": "job-1"})

        retry(connection)

        left, (now, _) = client.hgetall(keys.job("job-1")), client.time()
    assert {name.decode() for name in left} == record.keys() - {"counted"}
    assert all(now - 60 < float(submitted) <= now + 1 for submitted in left.values())


def test_every_cause_is_tried() -> None:
    assert {*AGAIN, "first", "vanished"} == set(CAUSES)


def test_a_cause_that_is_none_of_ours_makes_no_field(
    server: RedisServer, connect: Callable[..., Connection]
) -> None:
    with server.client() as client:
        for came in ('"hacked"', '"first lease_lost"', "3", '"vanish', '"'):
            client.lpush("lane", f'{{"came": {came}, "body": "e30=", "properties": {{}}}}')

        for _ in range(5):
            get(connect())

        assert client.hkeys("rerankq:totals") == [b"delivered:first"]


def test_a_reply_that_nobody_acknowledges_is_no_delivery(
    server: RedisServer, connect: Callable[..., Connection]
) -> None:
    connection = connect()
    publish(connection, "one")

    assert connection.default_channel.basic_get("lane", no_ack=True) is not None
    assert counted(server) == {}


def test_counts_carry_the_global_prefix(server: RedisServer, connect: Callable[..., Connection]) -> None:
    connection = connect(global_keyprefix="their:")
    publish(connection, "one")

    get(connection)

    assert counted(server, "their:rerankq:totals") == {"first": 1}


def test_a_count_that_is_refused_keeps_no_message_back(
    server: RedisServer, connect: Callable[..., Connection]
) -> None:
    with server.client() as client:
        client.set("rerankq:totals", "something else")
    connection = connect()
    publish(connection, "one")

    message = get(connection)

    assert message.payload == "one"


def test_held_messages_are_told_by_their_list(
    server: RedisServer, connect: Callable[..., Connection]
) -> None:
    connection = connect()
    publish(connection, 1, 2, queue="lane")
    publish(connection, 3, queue="other")

    for queue in ("lane", "lane", "other"):
        get(connection, queue)

    with server.client() as client:
        assert held_by_list(client) == {"lane": 2, "other": 1}
