"""The transport over rediss:// and sentinel://, each with the real thing at the other end."""

import asyncio
from pathlib import Path

import pytest
import redis
from kombu import Connection, Producer
from kombu.exceptions import OperationalError

from rerankq import AsyncRerankClient, RankedDocument
from rerankq.contract.transport.connection import LeasedConnection
from tests.redis_addresses import MASTER_NAME, TlsRedis, self_signed, sentinel_for, tls_in_front_of
from tests.redis_server import RedisServer
from tests.service import Service


async def ask_asynchronously(url: str) -> list[RankedDocument]:
    async with AsyncRerankClient(url) as client:
        return (await client.rerank("panda", ["a bear", "a bird"])).results


def send_and_receive(connection: Connection) -> object:
    """What comes out when a message goes through, held and acknowledged."""
    channel = connection.default_channel
    Producer(channel).publish("hello", routing_key="lane")
    message = channel.basic_get("lane")
    message.ack()
    return message.payload


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    return self_signed(tmp_path)


def test_messages_travel_over_tls_with_a_checked_certificate(
    server: RedisServer, certificate: tuple[Path, Path]
):
    with tls_in_front_of(server, certificate) as port:
        url = f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={certificate[0]}"
        with LeasedConnection(url) as connection:
            assert send_and_receive(connection) == "hello"


def test_a_certificate_nobody_vouches_for_is_refused(server: RedisServer, certificate: tuple[Path, Path]):
    with (
        tls_in_front_of(server, certificate) as port,
        LeasedConnection(
            f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=CERT_REQUIRED",
            transport_options={"max_retries": 1, "interval_start": 0, "interval_step": 0},
        ) as connection,
        pytest.raises((OperationalError, redis.ConnectionError), match="certificate"),
    ):
        send_and_receive(connection)


def test_messages_travel_to_the_master_that_a_sentinel_names(server: RedisServer, tmp_path: Path):
    with (
        sentinel_for(server, tmp_path) as port,
        LeasedConnection(
            f"sentinel://127.0.0.1:{port}/0", transport_options={"master_name": MASTER_NAME}
        ) as connection,
    ):
        assert send_and_receive(connection) == "hello"


def test_a_job_is_answered_by_a_service_that_knows_redis_over_tls_only(tmp_path: Path) -> None:
    with Service(engine="rerankq_worker.doubles:noop", redis=TlsRedis(tmp_path)) as service:
        assert service.redis.url.startswith("rediss://")
        ranking = service.client.rerank("panda", ["a bear", "a bird"])

        assert ranking.scored == 2
        assert asyncio.run(ask_asynchronously(service.redis.url)) == ranking.results
