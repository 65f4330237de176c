"""A Redis behind TLS, and a Redis with a replica that a sentinel guards: what a URL may lead to besides a plain one."""

import asyncio
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.redis_server import RedisServer, find_redis_server, free_port

MASTER_NAME = "main"
SETTLES_WITHIN_SECONDS = 15.0
DOWN_AFTER_MILLISECONDS = 1000


def self_signed(directory: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")  # the system's; pip cannot bring it
    made, key = directory / "cert.pem", directory / "key.pem"
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
    """Copy both ways until one side is done, and leave nothing open, also where nobody is behind or all is over."""
    open_streams = [writer]
    ways: list[asyncio.Task[None]] = []
    try:
        with suppress(ConnectionRefusedError):
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            open_streams.append(inner_writer)
            ways += [
                asyncio.create_task(copy(*way)) for way in ((reader, inner_writer), (inner_reader, writer))
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        for stream in open_streams:
            stream.transport.abort()
        closed = [stream.wait_closed() for stream in open_streams]
        await asyncio.gather(*ways, *closed, return_exceptions=True)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


@contextmanager
def sentinel_for(server: RedisServer, directory: Path) -> Iterator[int]:
    """A sentinel that watches `server` under the name `MASTER_NAME`; yields its port."""
    port, settings = free_port(), directory / "sentinel.conf"
    settings.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
        f"sentinel monitor {MASTER_NAME} 127.0.0.1 {server.port} 1\n"
        f"sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER_MILLISECONDS}\n"
        f"sentinel failover-timeout {MASTER_NAME} 5000\n"
    )
    with (directory / "sentinel.log").open("wb") as log:
        process = subprocess.Popen([find_redis_server(), str(settings), "--sentinel"], stdout=log, stderr=log)
    try:
        with redis.Redis(port=port) as sentinel:
            wait_until(lambda: sentinel.execute_command("SENTINEL", "get-master-addr-by-name", MASTER_NAME))
        yield port
    finally:
        process.kill()
        process.wait()


class BorrowedRedis(RedisServer):
    """One that others start and stop, at this address."""

    def __init__(self, url: str) -> None:
        self._url = url

    @property
    def url(self) -> str:
        return self._url

    def start(self) -> None:
        """It runs."""

    def __exit__(self, *_: object) -> None:
        """It goes on."""


class TlsRedis(RedisServer):
    """A Redis whose address is the TLS endpoint in front of it."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._certificate = self_signed(directory)
        self._started = ExitStack()
        self._tls_port = 0

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self._tls_port}/0?ssl_cert_reqs=required&ssl_ca_certs={self._certificate[0]}"

    def start(self) -> None:
        super().start()
        self._tls_port = self._started.enter_context(tls_in_front_of(self, self._certificate))

    def __exit__(self, *_: object) -> None:
        self._started.close()
        super().__exit__()


class GuardedRedis(RedisServer):
    """A master with one replica, and a sentinel that promotes the replica when the master is gone."""

    def __init__(self, directory: Path) -> None:
        super().__init__(appendonly=True)
        self._directory_of_sentinel = directory
        self._started = ExitStack()
        self._dead_port, self._sentinel_port = free_port(), 0

    @property
    def url(self) -> str:
        """Of two sentinels, the first of which is never up."""
        sentinels = [f"sentinel://127.0.0.1:{port}/0" for port in (self._dead_port, self._sentinel_port)]
        return f"{';'.join(sentinels)}?master_name={MASTER_NAME}"

    def start(self) -> None:
        super().start()
        started = self._started.enter_context(RedisServer(appendonly=True))
        with started.client() as replica:
            replica.replicaof("127.0.0.1", self.port)
            wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
        self._sentinel_port = self._started.enter_context(sentinel_for(self, self._directory_of_sentinel))
        with redis.Redis(port=self._sentinel_port) as sentinel:
            wait_until(lambda: sentinel.execute_command("SENTINEL", "replicas", MASTER_NAME))

    def is_replicated(self) -> bool:
        """Whether the replica has all that was written by now."""
        with self.client() as master:
            return bool(master.wait(1, 5_000))

    def __exit__(self, *_: object) -> None:
        self._started.close()
        super().__exit__()


def wait_until(is_so: Any) -> None:
    give_up_at = time.monotonic() + SETTLES_WITHIN_SECONDS
    while True:
        with suppress(redis.ConnectionError):
            if is_so():
                return
        assert time.monotonic() < give_up_at, f"Redis did not settle within {SETTLES_WITHIN_SECONDS} s"
        time.sleep(0.05)
