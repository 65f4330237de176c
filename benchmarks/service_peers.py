"""Whom `bench_service peers` asks beside each other: this service, plain Celery with CrossEncoder, infinity's server.

Each holds the same model, and tells what the processor did for it. Knows no workload.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.asked_service import processor_seconds
from benchmarks.http_servers import NO_ANSWER, Ask, Ended, Server, by_client, infinity
from rerankq import AsyncRerankClient
from tests.conftest import REPOSITORY
from tests.redis_server import RedisServer
from tests.service import TIED, Service

PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody who ranks documents."""

    name: str
    callers: Callable[[int], AbstractAsyncContextManager[list[Ask]]]
    """So many, each with what a caller of one's own has."""
    processor_seconds: Callable[[], float]
    """Of all that works for it but whoever asks, until now."""


@contextmanager
def peers(model: Path, threads: int, max_length_tokens: int) -> Generator[list[Peer]]:
    """All that can be had, running."""
    with ExitStack() as running:
        service = running.enter_context(
            Service(model=model, threads=threads, max_length_tokens=max_length_tokens, lease_seconds=15.0)
        )
        found = [_ours(service), running.enter_context(_plain(model, threads, max_length_tokens))]
        server = infinity(model, threads)
        if server is None:
            print("infinity: left out, RERANKQ_BENCH_INFINITY_PYTHON names no Python that has it")
        else:
            found.append(_by_http(running.enter_context(server)))
        yield found


def _ours(service: Service) -> Peer:
    @asynccontextmanager
    async def callers(count: int) -> AsyncGenerator[list[Ask]]:
        async with AsyncRerankClient(service.redis.url) as client:
            yield [by_client(client, PATIENCE_SECONDS)] * count

    def spent() -> float:
        by_process = processor_seconds([service])
        return sum(by_process.values()) - by_process["client"]

    return Peer("rerankq", callers, spent)


def _by_http(server: Server) -> Peer:
    @asynccontextmanager
    async def callers(count: int) -> AsyncGenerator[list[Ask]]:
        connections = [server.connection(PATIENCE_SECONDS) for _ in range(count)]
        yield [connection.ask for connection in connections]
        for connection in connections:
            connection.close()

    return Peer(server.name, callers, server.processor_seconds)


@contextmanager
def _plain(model: Path, threads: int, max_length_tokens: int) -> Generator[Peer]:
    """Plain Celery on a Redis of its own."""
    with RedisServer() as redis:
        os.environ |= {"BENCH_REDIS": redis.url, "BENCH_MODEL": str(model)}
        os.environ["BENCH_MAX_LENGTH"] = str(max_length_tokens)
        options = "-A benchmarks.plain_celery worker --pool prefork --concurrency 1 --loglevel error"
        command = [sys.executable, "-m", "celery", "--quiet", *options.split()]
        paths = os.pathsep.join(str(REPOSITORY / part) for part in (".", "producer"))
        worker = subprocess.Popen(
            [*TIED, str(os.getpid()), *command],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield Peer("plain Celery", _tasks, lambda: _seconds(worker.pid, redis.pid))
        finally:
            worker.terminate()
            worker.wait()


@asynccontextmanager
async def _tasks(count: int) -> AsyncGenerator[list[Ask]]:
    """A thread for each caller, as a web application's handlers have."""
    from benchmarks.plain_celery import rank  # its application takes the Redis of the environment

    ranking: Any = rank
    with ThreadPoolExecutor(count) as threads:

        async def ask(query: str, documents: list[str]) -> Ended:
            waiting = asyncio.get_running_loop().run_in_executor(
                threads, lambda: ranking.delay(query, documents).get(timeout=PATIENCE_SECONDS)
            )
            return Ended(200 if len(await waiting) == len(documents) else NO_ANSWER)

        yield [ask] * count


def _seconds(*pids: int) -> float:
    processes = [
        each for pid in pids for each in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
    ]
    return sum(sum(process.cpu_times()[:2]) for process in processes)
