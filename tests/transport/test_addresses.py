"""Every spelling of a Redis URL that is accepted leads everybody to the same Redis: each half, sync and asyncio."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from rerankq import AsyncRerankClient, RerankClient
from rerankq.contract import wire
from rerankq.contract.broker import celery_app
from rerankq.contract.keys import queue_of
from rerankq.contract.redis_clients import redis_client
from tests.redis_addresses import self_signed, tls_in_front_of
from tests.redis_server import RedisServer
from tests.service import Service

PASSWORD = "p@ss/w:o?r#d;%41+ü"
IN_URL = quote(PASSWORD, safe="")
DATABASE = 3
RANKING = {
    "id": "j",
    "model": {"name": "m", "revision": "r"},
    "results": [],
    "complete": True,
    "scored": 0,
    "total": 0,
    "usage": {},
    "timings": {},
    "worker": {"name": "w", "device": "cpu", "dtype": "fp32"},
}

SPELLINGS = [
    "redis://:{password}@127.0.0.1:{port}/{database}",
    "redis://default:{password}@127.0.0.1:{port}/{database}/",
    "redis://me:{password}@localhost:{port}?db={database}",
    "redis://me:{password}@127.0.0.1:{port}/{database}?health_check_interval=10&client_name=web&protocol=3",
    "redis://me:{password}@[::1]:{port}/{database}",
    "unix://me:{password}@{socket}?db={database}",
    "redis+socket://:{password}@{socket}?virtual_host={database}&health_check_interval=10&client_name=web",
    "rediss://me:{password}@127.0.0.1:{tls}/{database}?ssl_ca_certs={ca}",
    "rediss://me:{password}@127.0.0.1:{tls}/{database}?ssl_ca_certs={ca}&ssl_cert_reqs=CERT_REQUIRED",
    "rediss://me:{password}@127.0.0.1:{tls}/{database}?ssl_ca_certs={ca}&ssl_cert_reqs=optional",
    "rediss://me:{password}@localhost:{tls}/{database}?ssl_ca_certs={ca}&ssl_check_hostname=false",
    "rediss://me:{password}@localhost:{tls}/{database}?ssl_cert_reqs=none&health_check_interval=10",
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """A Redis that is reached by address, by socket and through TLS, with a password for two users."""
    directory = tmp_path_factory.mktemp("addresses")
    socket_path, certificate = directory / "a socket.sock", self_signed(directory)
    server = RedisServer(
        bind=("127.0.0.1", "::1") if has_ipv6() else "127.0.0.1",
        unixsocket=socket_path,
        user=("me", "on", f">{PASSWORD}", "~*", "&*", "+@all"),
    )
    with server, tls_in_front_of(server, certificate) as tls_port:
        server.client().config_set("requirepass", PASSWORD)
        yield {
            "password": IN_URL,
            "port": server.port,
            "tls": tls_port,
            "socket": quote(str(socket_path)),
            "ca": certificate[0],
            "database": DATABASE,
        }


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # by Celery
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_job_goes_there_and_back(spelling: str, places: dict[str, object]) -> None:
    if "::1" in spelling and not has_ipv6():
        pytest.skip("no IPv6 on this machine")
    url = spelling.format(**places)
    with RerankClient(url) as client:
        job = client.submit("q", ["a"])
        answer_as_a_worker_would(url, job.job_id)

        assert job.result(5).complete
        assert asyncio.run(ask_asynchronously(url, job.job_id))
    with redis_client(f"redis://:{IN_URL}@127.0.0.1:{places['port']}/{DATABASE}", 5) as redis:
        assert redis.exists(f"celery-task-meta-{job.job_id}")


def answer_as_a_worker_would(url: str, job_id: str) -> None:
    app = celery_app("worker", url, url, socket_timeout_seconds=5, result_ttl_seconds=60)
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        assert channel.client.ping()  # the connection that waits for messages; basic_get takes another
        message = channel.basic_get(queue_of("interactive"))
        assert message.headers["id"] == job_id
        app.backend.mark_as_done(job_id, wire.Summarized(RANKING, ""))
        message.ack()
    app.close()


async def ask_asynchronously(url: str, job_id: str) -> bool:
    async with AsyncRerankClient(url) as client:
        return (await client.job(job_id).result(5)).complete


def test_a_whole_service_runs_over_a_socket(tmp_path: Path) -> None:
    with Service(engine="rerankq_worker.doubles:noop", redis=RedisOnSocket(tmp_path)) as service:
        assert service.client.rerank("panda", ["a bear", "a bird"]).scored == 2


class RedisOnSocket(RedisServer):
    """A Redis whose address is its socket, options and all."""

    def __init__(self, directory: Path) -> None:
        super().__init__(unixsocket=directory / "redis.sock")
        self._path = directory / "redis.sock"

    @property
    def url(self) -> str:
        return f"unix://{self._path}?db=2&health_check_interval=10&client_name=everybody"
