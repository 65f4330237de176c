"""The channel against a real Redis: what each operation leaves behind, and what happens at the edges."""

import contextlib
import json
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection, Exchange, Producer, Queue

from rerankq.contract.transport.channel import LeasedChannel
from rerankq.contract.transport.dead_letters import DeadLetters
from rerankq.contract.transport.envelope import PAYLOAD_KEY_PREFIX, deliveries
from rerankq.contract.transport.leases import Leases
from rerankq.contract.transport.outage import carry_over
from rerankq.contract.transport.scripts import ACK, FETCH, PUSH, PUT_BACK, RENEW, SWEEP
from tests.redis_server import RedisServer


def publish(connection: Connection, *bodies: object, queue: str = "lane", **properties: Any) -> None:
    for body in bodies:
        Producer(connection.default_channel).publish(body, routing_key=queue, **properties)


def get(connection: Connection, queue: str = "lane") -> Any:
    return connection.default_channel.basic_get(queue)


def sweep(connection: Connection) -> None:
    """Sweep as a worker does that has long been in touch."""
    qos = connection.default_channel.qos
    qos._swept_at = qos._in_touch_since = time.monotonic() - 0.5
    qos._in_touch_since -= 100
    qos.restore_visible()


def test_a_message_is_held_until_it_is_acknowledged(server: RedisServer, connect: Callable[..., Connection]):
    connection = connect()
    publish(connection, "one")

    message = get(connection)
    with server.client() as client:
        assert client.hkeys("rerankq:held") == client.zrange("rerankq:leases", 0, -1) != []
        message.ack()
        assert client.keys("rerankq:*") == [b"rerankq:totals"]


def test_messages_come_in_the_order_they_were_sent_and_a_returned_one_comes_first(
    connect: Callable[..., Connection],
):
    connection = connect()
    publish(connection, 1, 2, 3)

    first = get(connection)
    connection.default_channel.qos.hand_back(first.delivery_tag)

    assert [get(connection).payload for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("key", ["rerankq:held", "rerankq:leases"])
def test_a_message_that_cannot_be_held_stays_on_its_list(
    server: RedisServer, connect: Callable[..., Connection], key: str
):
    connection = connect()
    publish(connection, "one")

    with server.client() as client:
        client.set(key, "something else")
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            get(connection)
        client.delete(key)

    assert get(connection).payload == "one"


@pytest.mark.parametrize(("key", "delivery"), [("lane", 1), ("rerankq:delayed", 2)])
def test_a_message_that_cannot_be_put_back_stays_held(
    server: RedisServer, connect: Callable[..., Connection], key: str, delivery: int
):
    connection = connect()
    publish(connection, "one", headers={"x-deliveries": delivery})
    message = get(connection)

    with server.client() as client:
        client.set(key, "something else")
        message.reject(requeue=True)

        assert client.hlen("rerankq:held") == 1


def test_only_an_expired_lease_is_put_back_and_counted(connect: Callable[..., Connection]):
    dead, alive = connect(), connect()
    publish(dead, "one")
    assert get(dead).headers == {}
    sweep(alive)
    assert get(alive) is None

    time.sleep(1.05)
    sweep(alive)

    message = get(alive)
    assert deliveries(message.headers) == 2
    assert message.delivery_info["redelivered"] is True


def test_a_renewed_lease_is_left_alone(connect: Callable[..., Connection]):
    holder, other = connect(), connect()
    publish(holder, "one")
    get(holder)
    for _ in range(4):
        time.sleep(0.3)
        holder.default_channel.qos.renew()

    sweep(other)

    assert get(other) is None


def test_nobody_is_judged_by_a_worker_that_was_out_of_touch_itself(connect: Callable[..., Connection]):
    dead, returning = connect(), connect()
    publish(dead, "one")
    get(dead)
    time.sleep(1.05)

    returning.default_channel.qos.restore_visible()

    assert get(returning) is None


def test_as_shipped_the_first_repetition_comes_at_once_and_later_ones_after_a_second():
    leases = Leases("held", "leases", "delayed", "paused", 15.0, LeasedChannel.backoff_seconds)

    assert [leases.delay_before(delivery) for delivery in (2, 3, 9)] == [0.0, 1.0, 1.0]


def test_the_second_repetition_waits(server: RedisServer, connect: Callable[..., Connection]):
    connection = connect()
    publish(connection, "one", headers={"x-deliveries": 2})

    get(connection).reject(requeue=True)
    sweep(connection)
    assert get(connection) is None
    with server.client() as client:
        assert client.zcard("rerankq:delayed") == 1

    time.sleep(0.55)
    sweep(connection)
    assert deliveries(get(connection).headers) == 3


def test_a_late_ack_finds_its_lease_gone_deletes_nothing_and_says_so(
    server: RedisServer, connect: Callable[..., Connection], caplog: pytest.LogCaptureFixture
):
    slow, other = connect(), connect()
    payload = PAYLOAD_KEY_PREFIX + "1"
    with server.client() as client:
        client.set(payload, b"documents")
        publish(slow, "one", headers={"rerankq-payload": payload})
        late = get(slow)
        time.sleep(1.05)
        sweep(other)
        again = get(other)

        with caplog.at_level(logging.WARNING):
            late.ack()
        assert "its lease was gone at the ack" in caplog.text
        assert client.get(payload) == b"documents"

        again.ack()
        assert client.get(payload) is None


def test_an_ack_deletes_no_key_but_a_payload(server: RedisServer, connect: Callable[..., Connection]):
    connection = connect()
    with server.client() as client:
        client.set("precious", 1)
        publish(connection, "one", headers={"rerankq-payload": "precious"})

        get(connection).ack()

        assert client.exists("precious")


def test_a_rejected_message_is_gone_and_its_payload_stays(
    server: RedisServer, connect: Callable[..., Connection]
):
    connection = connect()
    payload = PAYLOAD_KEY_PREFIX + "1"
    with server.client() as client:
        client.set(payload, b"documents")
        publish(connection, "one", headers={"rerankq-payload": payload})

        get(connection).reject()

        assert set(client.keys("rerankq:*")) == {payload.encode(), b"rerankq:totals"}


def test_closing_a_connection_hands_back_what_it_held_uncounted(connect: Callable[..., Connection]):
    closing, other = connect(), connect()
    publish(closing, "one")
    get(closing)

    closing.close()

    message = get(other)
    assert deliveries(message.headers) == 1
    assert message.delivery_info["redelivered"] is True


def test_an_ack_that_a_frozen_redis_did_not_take_is_sent_with_the_next_renewal(
    server: RedisServer, connect: Callable[..., Connection]
):
    connection = connect(socket_timeout=0.2)
    publish(connection, "one")
    with connection.Consumer(Queue("lane", Exchange(""), "lane", no_declare=True)) as consumer:
        consumer.qos(prefetch_count=1)
        message = get(connection)
        server.freeze()
        message.ack()
        assert connection.default_channel.qos.can_consume(), "the slot is free although the ack is still due"
        server.thaw()

        connection.default_channel.qos.renew()

        with server.client() as client:
            assert client.hlen("rerankq:held") == 0


@pytest.mark.parametrize("ends", [True, False], ids=["it ends meanwhile", "it goes on"])
def test_a_running_job_is_carried_over_to_the_next_connection(
    server: RedisServer, connect: Callable[..., Connection], ends: bool
):
    lost, next_one = connect(), connect()
    publish(lost, "one")
    message = get(lost)
    carry_over([message])
    lost.close()
    if ends:
        message.ack()

    with next_one.Consumer(Queue("lane", Exchange(""), "lane", no_declare=True)) as consumer:
        consumer.consume()
        with server.client() as client:
            assert client.hlen("rerankq:held") == (0 if ends else 1)
            assert client.llen("lane") == 0
            if not ends:
                message.ack()
            assert client.hlen("rerankq:held") == 0


def test_the_scripts_survive_a_script_flush(server: RedisServer, connect: Callable[..., Connection]):
    connection = connect()
    got: list[object] = []
    queue = Queue("lane", Exchange(""), "lane", no_declare=True)
    with connection.Consumer(queue, callbacks=[lambda body, message: (got.append(body), message.ack())]):
        for body in ("before", "after"):
            with server.client() as client:
                client.script_flush()
            publish(connection, body)
            deadline = time.monotonic() + 5
            while body not in got and time.monotonic() < deadline:
                drain(connection)

    assert got == ["before", "after"]


def drain(connection: Connection) -> None:
    try:
        connection.drain_events(timeout=0.1)
    except (TimeoutError, socket.timeout):  # noqa: UP041 - kombu raises the old name
        return


def test_a_message_from_a_client_that_rings_no_bell_is_seen_within_two_seconds(
    server: RedisServer, connect: Callable[..., Connection]
):
    connection, got = connect(), []
    with connection.Consumer(
        Queue("lane", Exchange(""), "lane", no_declare=True),
        callbacks=[lambda body, message: (got.append(body), message.ack())],
    ):
        drain(connection)
        drain(connection)
        plain = {
            "body": "1",
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "properties": {},
        }
        with server.client() as client:
            client.lpush("lane", json.dumps(plain))
        deadline = time.monotonic() + 2
        while not got and time.monotonic() < deadline:
            drain(connection)

    assert got == [1]


def test_bells_of_answered_messages_are_cleared(server: RedisServer, connect: Callable[..., Connection]):
    connection = connect()
    publish(connection, *range(300))
    with server.client() as client:
        assert client.llen("lane.bell") == 128

        for _ in range(300):
            get(connection).ack()
        assert get(connection) is None

        assert not client.exists("lane.bell")


def test_a_batch_is_published_with_its_bell(server: RedisServer, connect: Callable[..., Connection]):
    connection = connect()
    producer = Producer(connection.default_channel)
    with producer.batch():
        for body in range(3):
            producer.publish(body, routing_key="lane")

    with server.client() as client:
        assert client.llen("lane.bell") == 3
    assert [get(connection).payload for _ in range(3)] == [0, 1, 2]


def test_a_queue_that_expires_takes_its_bell_with_it(server: RedisServer, connect: Callable[..., Connection]):
    connection = connect()
    queue = Queue("short", Exchange(""), "short", expires=0.3, channel=connection.default_channel)
    queue.declare()
    publish(connection, "one", queue="short")

    with server.client() as client:
        assert 0 < client.pttl("short") <= 300
        assert 0 < client.pttl("short.bell") <= 300


def test_deleting_and_purging_a_queue_removes_its_bell(
    server: RedisServer, connect: Callable[..., Connection]
):
    connection = connect()
    channel = connection.default_channel
    with server.client() as client:
        Queue("lane", Exchange("lane"), "lane", channel=channel).declare()
        publish(connection, "one")
        assert channel.queue_purge("lane") == 1
        assert client.keys("lane*") == []

        publish(connection, "one")
        channel.queue_delete("lane")
        assert client.keys("lane*") == []


def test_every_key_carries_the_global_prefix(server: RedisServer, connect: Callable[..., Connection]):
    connection = connect(global_keyprefix="their:")
    publish(connection, "acked", "held", "dead")
    get(connection).ack()
    get(connection)
    with server.client() as client:
        client.lpush("their:lane", b"\xff")
        assert get(connection).payload == "dead"
        assert get(connection) is None

        keys = {key.decode() for key in client.keys("*")}
        assert {key for key in keys if not key.startswith("their:")} == set()
        assert {"their:rerankq:held", "their:rerankq:leases", "their:rerankq:dead"} <= keys
        assert DeadLetters(client, prefix="their:").count() == 1


def test_a_full_redis_refuses_a_push_and_still_drains(
    server: RedisServer, connect: Callable[..., Connection]
):
    connection = connect()
    publish(connection, "x" * 1000, "x" * 1000, "x" * 1000, "x" * 1000)
    with server.client() as client:
        client.lpush("lane", b"\xff no message")
        client.config_set("maxmemory", "1")
        with pytest.raises(redis.OutOfMemoryError, match="used memory > 'maxmemory'"):
            publish(connection, "one more")

        get(connection).ack()
        get(connection).reject(requeue=True)
        get(connection).ack()
        lost = get(connection)
        connection.default_channel.qos.renew()
        connection.default_channel.leases.put_back(
            client, lost.delivery_tag, "lane", json.dumps(lost._raw), delay_seconds=0.01
        )
        time.sleep(0.02)
        sweep(connection)
        get(connection).ack()
        get(connection).ack()
        assert get(connection) is None, "the bytes that are no message are set aside"

        assert client.llen("lane") == client.hlen("rerankq:held") == client.zcard("rerankq:delayed") == 0
        assert DeadLetters(client).count() == 1


def test_a_stock_celery_worker_on_the_same_redis_is_not_robbed(
    server: RedisServer, connect: Callable[..., Connection]
):
    with server.client() as client:
        client.hset("unacked", "their-tag", "theirs")
        client.zadd("unacked_index", {"their-tag": 1})

        sweep(connect())

        assert client.hgetall("unacked") == {b"their-tag": b"theirs"}


def test_replies_to_inspect_arrive_without_the_second_of_a_missed_bell(server: RedisServer, app: Celery):
    with app.connection_for_write() as connection:
        started = time.monotonic()
        assert app.control.ping(timeout=0.5, connection=connection) == []
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "script", [FETCH, ACK, PUT_BACK, RENEW, SWEEP, PUSH], ids=["f", "a", "p", "r", "s", "u"]
)
def test_no_script_has_a_flag_line_so_that_it_may_run_when_redis_is_full(script: Any):
    assert not script.text.lstrip().startswith("#!")


@pytest.mark.parametrize("verdict", ["ack", "requeue"])
def test_a_message_to_everybody_lies_on_no_list_and_is_let_go_without_a_word(
    verdict: str, connect: Callable[..., Connection], caplog: pytest.LogCaptureFixture
):
    connection, received = connect(), []
    queue = Queue("all", Exchange("all", type="fanout"))

    def decide(_: object, message: Any) -> None:
        received.append(getattr(message, verdict)())

    with connection.Consumer(queue, callbacks=[decide]):
        everybody = Producer(connection.clone().channel(), exchange=queue.exchange)
        while not received:  # nothing is kept for whoever does not listen yet
            everybody.publish("hear")
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.2)

    assert caplog.messages == []
