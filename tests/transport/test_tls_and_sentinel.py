"""The transport over rediss:// and sentinel://, each with the real thing at the other end."""

import asyncio
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection, Producer
from kombu.exceptions import OperationalError

from rerankq.contract import transport
from tests.redis_server import RedisServer, find_redis_server, free_port


def send_and_receive(connection: Connection) -> object:
    """What comes out when a message goes through, held and acknowledged."""
    channel = connection.default_channel
    Producer(channel).publish("hello", routing_key="lane")
    message = channel.basic_get("lane")
    message.ack()
    return message.payload


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    made, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    subprocess.run([*command, "-out", str(made), "-keyout", str(key)], check=True, capture_output=True)
    return made, key


@contextmanager
def tls_in_front_of(server: RedisServer, certificate: tuple[Path, Path]) -> Iterator[int]:
    """A TLS endpoint for a Redis that may be built without; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    port, is_up, is_over = free_port(), threading.Event(), threading.Event()

    async def serve() -> None:
        def passing_on(*streams: Any) -> Any:
            return pass_on(server.port, *streams)

        async with await asyncio.start_server(passing_on, "127.0.0.1", port, ssl=context):
            is_up.set()
            await asyncio.to_thread(is_over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    is_up.wait(timeout=10)
    try:
        yield port
    finally:
        is_over.set()
        thread.join()


async def pass_on(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy both ways until one side is done, and leave nothing open."""
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
    ways = [asyncio.create_task(copy(*way)) for way in ((reader, inner_writer), (inner_reader, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        for stream in (inner_writer, writer):
            stream.transport.abort()
        await asyncio.gather(*ways, return_exceptions=True)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


def test_messages_travel_over_tls_with_a_checked_certificate(
    server: RedisServer, certificate: tuple[Path, Path]
):
    transport.install()
    with tls_in_front_of(server, certificate) as port:
        url = f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={certificate[0]}"
        with Connection(url) as connection:
            assert send_and_receive(connection) == "hello"


def test_a_certificate_nobody_vouches_for_is_refused(server: RedisServer, certificate: tuple[Path, Path]):
    transport.install()
    with (
        tls_in_front_of(server, certificate) as port,
        Connection(
            f"rediss://127.0.0.1:{port}/0?ssl_cert_reqs=CERT_REQUIRED",
            transport_options={"max_retries": 1, "interval_start": 0, "interval_step": 0},
        ) as connection,
        pytest.raises((OperationalError, redis.ConnectionError), match="certificate"),
    ):
        send_and_receive(connection)


@contextmanager
def sentinel_for(server: RedisServer, directory: Path) -> Iterator[int]:
    """A sentinel that watches `server` under the name `main`; yields its port."""
    port, settings = free_port(), directory / "sentinel.conf"
    settings.write_text(f"port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {server.port} 1\n")
    with (directory / "sentinel.log").open("wb") as log:
        process = subprocess.Popen([find_redis_server(), str(settings), "--sentinel"], stdout=log, stderr=log)
    try:
        wait_for_master(port)
        yield port
    finally:
        process.kill()
        process.wait()


def wait_for_master(port: int, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with redis.Redis(port=port) as client:
                answer: Any = client.execute_command("SENTINEL", "get-master-addr-by-name", "main")
                if answer:
                    return
        except redis.ConnectionError:
            assert time.monotonic() < deadline, "the sentinel did not answer"
        time.sleep(0.05)


def test_messages_travel_to_the_master_that_a_sentinel_names(server: RedisServer, tmp_path: Path):
    transport.install()
    with (
        sentinel_for(server, tmp_path) as port,
        Connection(f"sentinel://127.0.0.1:{port}/0", transport_options={"master_name": "main"}) as connection,
    ):
        assert send_and_receive(connection) == "hello"
