"""Whose connections use the transport: ours, by whatever URL, and nobody else's; and which kombu it refuses."""

import kombu
import pytest
from celery import Celery
from kombu import Connection, pools
from kombu.transport import redis as kombu_redis

from rerankq.contract.broker import celery_app
from rerankq.contract.transport import channel
from rerankq.contract.transport.connection import LeasedConnection, UnknownKombu

NOWHERE = "redis://127.0.0.1:1/0"


def our_app(url: str = NOWHERE) -> Celery:
    return celery_app("test", url, url, socket_timeout_seconds=1, result_ttl_seconds=60)


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "redis+socket:///tmp/r"], ids=str)
def test_redis_urls_of_ours_lead_to_our_transport(url: str):
    assert LeasedConnection(url).get_transport_cls() is channel.LeasedTransport
    assert LeasedConnection(url).clone().get_transport_cls() is channel.LeasedTransport


def test_sentinels_of_ours_lead_to_our_transport_whichever_of_them_is_asked():
    connection = LeasedConnection("sentinel://a:26379/0;sentinel://b:26379/0")
    assert connection.get_transport_cls() is channel.SentinelTransport

    connection.maybe_switch_next()

    assert connection.hostname == "b"
    assert connection.get_transport_cls() is channel.SentinelTransport


def test_an_app_of_ours_leaves_everybody_else_kombus_own_transport():
    with our_app() as ours, Celery("theirs", broker=NOWHERE, set_as_current=False) as theirs:
        assert ours.connection().get_transport_cls() is channel.LeasedTransport
        assert theirs.connection().get_transport_cls() is kombu_redis.Transport
        assert Connection(NOWHERE).get_transport_cls() is kombu_redis.Transport


def test_an_application_with_the_same_url_and_options_does_not_share_our_connections():
    with our_app() as ours, Celery("theirs", broker=NOWHERE, set_as_current=False) as theirs:
        theirs.conf.broker_transport_options = ours.conf.broker_transport_options

        assert pools.connections[ours.connection()] is not pools.connections[theirs.connection()]
        assert ours.pool is not theirs.pool


@pytest.mark.parametrize("url", [NOWHERE, "redis+socket:///tmp/r", "sentinel://a/0;sentinel://b/0"], ids=str)
def test_connections_of_our_pools_are_ours(url: str):
    with our_app(url) as app:
        pooled = app.pool.acquire()
        ours = (channel.LeasedTransport, channel.SentinelTransport)

        assert pooled.get_transport_cls() in ours
        assert app.amqp.producer_pool.connections.new().get_transport_cls() in ours


def test_what_our_app_tells_other_applications_is_in_json():
    with our_app() as app:
        assert app.control.mailbox.serializer == "json"
        assert app.conf.task_serializer == app.conf.event_serializer == "json"


def test_an_unknown_kombu_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kombu, "__version__", "5.8.0")

    with pytest.raises(UnknownKombu, match=r"expected kombu 5\.7\.x, got 5\.8\.0.*pip install"):
        our_app()
