"""In an event loop an ack goes in one trip with the next fetch, and by itself where there is none."""

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kombu.asynchronous.hub import Hub
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Producer

from rerankq.contract.transport.hooks import hooks
from rerankq.contract.transport.outage import outage
from tests.redis_server import RedisServer


class Loop:
    """A consumer of one message at a time in an event loop."""

    def __init__(self, connection: Connection) -> None:
        self._hub = Hub()
        self.channel: Any = connection.default_channel
        self.channel.basic_qos(0, 1, False)
        transport: Any = connection.transport
        transport.register_with_event_loop(connection.connection, self._hub)
        self.taken: list[Any] = []
        consumer = connection.Consumer([Queue("lane")], on_message=self.taken.append)
        consumer.consume()

    def turn(self, until: Callable[[], object]) -> None:
        for _ in range(50):
            if until():
                return
            self._hub.run_once()
        raise AssertionError("not true after 50 turns of the loop")

    def take(self) -> Any:
        """The next message."""
        seen = len(self.taken)
        self.turn(lambda: len(self.taken) > seen)
        return self.taken[-1]

    def close(self) -> None:
        self._hub.close()


@pytest.fixture
def connection(connect: Callable[..., Connection]) -> Connection:
    opened = connect()
    for body in ("one", "two"):
        Producer(opened.default_channel).publish(body, routing_key="lane")
    return opened


@pytest.fixture
def loop(connection: Connection) -> Iterator[Loop]:
    running = Loop(connection)
    yield running
    running.close()


@pytest.fixture
def held(server: RedisServer) -> Iterator[Callable[[], int]]:
    with server.client() as client:
        yield lambda: int(client.hlen("rerankq:held"))  # pyright: ignore[reportArgumentType] - redis-py's own types


def test_an_ack_goes_with_the_next_fetch(loop: Loop, held: Callable[[], int]):
    first = loop.take()
    first.ack()
    assert held() == 1

    assert loop.take().payload == "two"
    assert held() == 1


def test_an_ack_goes_by_itself_where_nothing_may_be_fetched(
    loop: Loop, held: Callable[[], int], monkeypatch: pytest.MonkeyPatch
):
    first = loop.take()
    monkeypatch.setattr(hooks, "is_ready", lambda: False)
    first.ack()

    loop.turn(lambda: held() == 0)
    assert len(loop.taken) == 1


def test_an_ack_goes_by_itself_before_its_connection_is_closed(
    loop: Loop, connection: Connection, held: Callable[[], int]
):
    loop.take().ack()

    connection.close()

    assert held() == 0


def test_an_ack_is_sent_in_full_to_a_redis_that_has_forgotten_the_script(
    server: RedisServer, loop: Loop, held: Callable[[], int]
):
    loop.take().ack()
    with server.client() as client:
        client.script_flush()

    assert loop.take().payload == "two"
    assert held() == 1


def test_an_ack_that_is_refused_with_its_fetch_is_sent_when_redis_takes_it(
    server: RedisServer, loop: Loop, held: Callable[[], int]
):
    loop.take().ack()
    with server.client() as client:
        client.config_set("min-replicas-to-write", 1)
        loop.turn(lambda: not outage.is_time_to_ask())
        assert held() == 1
        client.config_set("min-replicas-to-write", 0)

    assert loop.take().payload == "two"
    loop.turn(lambda: held() == 1)


def test_an_ack_that_a_broken_connection_did_not_take_is_sent_by_another(
    loop: Loop, connection: Connection, held: Callable[[], int]
):
    loop.take().ack()
    loop.channel.client.connection._sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(loop.channel.connection_errors):
        loop.take()
    assert held() == 1

    connection.close()

    assert held() == 0


def test_an_ack_whose_reply_was_lost_is_sent_by_the_next_connection(
    server: RedisServer, loop: Loop, held: Callable[[], int], connect: Callable[..., Connection]
):
    first, channel = loop.take(), loop.channel
    first.ack()
    server.freeze()
    channel._brpop_start()
    channel.client.connection._sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(channel.connection_errors):
        channel._brpop_read()
    server.thaw()

    anew = Loop(connect())
    with server.client() as client:
        anew.turn(lambda: first.delivery_tag.encode() not in client.hkeys("rerankq:held"))
    anew.close()
