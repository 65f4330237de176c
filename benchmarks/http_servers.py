"""Whom `bench_http` asks: `rerankq serve`, infinity's server, CrossEncoder behind FastAPI, and our client in process.

Each is a process of its own that can be killed and started again at the same address; knows no clock and no workload.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import psutil

from rerankq import AsyncRerankClient, RerankError
from rerankq.web import http_status
from tests.conftest import REPOSITORY
from tests.neighbours.side import side_environment
from tests.redis_server import free_port
from tests.service import TIED, Service

STARTS_WITHIN_SECONDS = 120
MAX_LENGTH_TOKENS = 1024
INFINITY_PYTHON = os.environ.pop(
    "RERANKQ_BENCH_INFINITY_PYTHON", None
)  # our client takes it for a misspelt setting
NO_ANSWER = 0  # the status of a request that got none

Message = tuple[str, Any]
"""Path and body."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What one request came to."""

    status: int
    retry_after_seconds: float = 0.0


Ask = Callable[[str, list[str]], Awaitable[Ended]]


class Connection:
    """One caller's connection, kept alive; made anew where it was closed."""

    def __init__(
        self, port: int, message: Callable[[str, list[str]], Message], timeout_seconds: float
    ) -> None:
        self._port, self._message, self._timeout_seconds = port, message, timeout_seconds
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, query: str, documents: list[str]) -> Ended:
        """One request and what it came to; its body is read and not looked into."""
        try:
            return await self._asked(*self._message(query, documents))
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return Ended(NO_ANSWER)

    async def _asked(self, path: str, body: Any) -> Ended:
        reader, writer = await self._open()
        content = json.dumps(body, ensure_ascii=False).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"X-Timeout-Seconds: {self._timeout_seconds}\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        writer.write(head.encode() + content)
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        await reader.readexactly(int(headers["content-length"]))
        return Ended(int(first.split()[1]), float(headers.get("retry-after", 0)))

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        return self._streams

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def by_client(client: AsyncRerankClient, timeout_seconds: float) -> Ask:
    """The same by the asyncio client, with no HTTP between."""

    async def ask(query: str, documents: list[str]) -> Ended:
        try:
            await client.rerank(query, documents, timeout=timeout_seconds)
        except RerankError as error:
            return Ended(http_status(error)[0], error.details.get("retry_after_seconds", 0.0))
        return Ended(200)

    return ask


@dataclass
class Server:
    """`with Server(…)`: a program that listens at a port of its own."""

    name: str
    command: list[str]
    """`{port}` in it is the port."""
    message: Callable[[str, list[str]], Message]
    environment: Mapping[str, str]
    helpers: Callable[[], list[psutil.Process]] = list
    """Processes beside it that do its work."""
    port: int = field(default_factory=free_port)
    _process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def start(self) -> None:
        """Start it; it answers some time later."""
        words = [word.format(port=self.port) for word in self.command]
        tied = [*TIED, str(os.getpid()), *words]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            tied, cwd=tempfile.gettempdir(), env=self.environment, stdout=quiet, stderr=quiet
        )

    def kill(self) -> None:
        """End it as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def processor_seconds(self) -> float:
        """Spent by it and its helpers until now."""
        assert self._process is not None
        own = psutil.Process(self._process.pid)
        spent = [each.cpu_times() for each in (own, *own.children(recursive=True), *self.helpers())]
        return sum(times.user + times.system for times in spent)

    def __enter__(self) -> Self:
        self.start()
        asyncio.run(self.answered())
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    async def answered(self) -> None:
        """Wait until it answers."""
        connection = self.connection(STARTS_WITHIN_SECONDS)
        async with asyncio.timeout(STARTS_WITHIN_SECONDS):
            while (await connection.ask("warm up", ["one", "two"])).status != 200:
                assert self._process is not None
                assert self._process.poll() is None, f"{self.name} ended: {' '.join(self.command)}"
                await asyncio.sleep(0.2)
        connection.close()

    def connection(self, timeout_seconds: float) -> Connection:
        """For one caller."""
        return Connection(self.port, self.message, timeout_seconds)


def rerankq(service: Service) -> Server:
    """`rerankq serve` before a running service."""
    command = [sys.executable, "-m", "rerankq.cli", "serve", "--port", "{port}"]

    def queue() -> list[psutil.Process]:
        return [psutil.Process(service.redis.pid), service.launcher(), *service.processes()]

    return Server("rerankq", command, _documents, service.environment, queue)


def infinity(model: Path, threads: int) -> Server | None:
    """infinity's own server, by a Python of its own; None where none is named."""
    if INFINITY_PYTHON is None:
        return None
    options = f"--model-id {model} --served-model-name bench --device cpu --engine torch --dtype float32"
    options += " --no-bettertransformer --no-compile --host 127.0.0.1 --port {port} --log-level error"
    command = [INFINITY_PYTHON, "-m", "infinity_emb.cli", "v2", *options.split()]
    environment = {**_plain(threads), "HF_HUB_OFFLINE": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    return Server("infinity", command, _named, environment)


def crossencoder(model: Path, threads: int) -> Server:
    """CrossEncoder in a handler of FastAPI, as people write it (`web_servers`)."""
    beside = side_environment("fastapi>=0.115", "uvicorn>=0.30")  # CrossEncoder's own Python has no FastAPI
    packages = next((beside.parent.parent / "lib").glob("python*/site-packages"))
    words = "-m uvicorn --factory benchmarks.web_servers:crossencoder --port {port} --log-level warning"
    environment = {**_plain(threads), "PYTHONPATH": f"{REPOSITORY}:{packages}", "BENCH_MODEL": str(model)}
    environment["BENCH_MAX_LENGTH"] = str(MAX_LENGTH_TOKENS)
    return Server("crossencoder", [sys.executable, *words.split()], _search, environment)


def all_servers(running: ExitStack, model: Path, service: Service, threads: int) -> list[Server]:
    """All that can be had, each with the same model, running."""
    servers = [rerankq(service), infinity(model, threads), crossencoder(model, threads)]
    if servers[1] is None:
        print("infinity: left out, RERANKQ_BENCH_INFINITY_PYTHON names no Python that has it")
    return [running.enter_context(server) for server in servers if server is not None]


def _plain(threads: int) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return {**kept, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}


def _documents(query: str, documents: list[str]) -> Message:
    return "/v1/rerank", {"query": query, "documents": documents, "top_n": 5}


def _named(query: str, documents: list[str]) -> Message:
    return "/rerank", {"model": "bench", "query": query, "documents": documents, "top_n": 5}


def _search(query: str, documents: list[str]) -> Message:
    return f"/search?query={quote(query)}", documents
