"""Somebody's web application, served by a real server in its own environment; and the people who use it."""

import http.client
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
from redis import Redis

from rerankq.contract import die_with_parent
from tests.redis_server import free_port

CALLERS = 64
HUNG_AFTER_SECONDS = 30  # far more than any documented timeout
ENDS_WITHIN_SECONDS = 60  # gunicorn itself gives what is under way 30 s
GIVES_UP_AFTER_SECONDS = 120
REFUSED = {429, 503, 504}
"""What docs/web.md tells a caller of a queue that is full, a Redis that is away, an answer that is late."""
STARTS_WITHIN_SECONDS = 60
CLIENT_NAME = "shop"  # as Redis shows the application's connections


@dataclass(frozen=True)
class Answered:
    """What one request came to."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass
class Load:
    """What many requests came to; who is refused asks again, as long as patience lasts."""

    statuses: Counter[int] = field(default_factory=Counter)
    """In the end."""
    wrong: list[str] = field(default_factory=list)


@dataclass
class Site:
    """A running server."""

    port: int
    path: str
    process: "subprocess.Popen[bytes]"
    log: Path

    def ask(self, query: str, documents: list[str]) -> Answered:
        """One request by a connection of its own."""
        with self.asked(query, documents) as connection:
            return _answered(connection)

    @contextmanager
    def asked(self, query: str, documents: list[str]) -> Iterator[http.client.HTTPConnection]:
        """A request that was sent and not answered yet; its caller is gone at the end."""
        is_fastapi = self.path.endswith("query=")
        path = self.path + quote(query) if is_fastapi else self.path
        body = documents if is_fastapi else {"query": query, "documents": documents}
        with self._connected() as connection:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            yield connection

    def get(self, path: str) -> Answered:
        """What lies there."""
        with self._connected() as connection:
            connection.request("GET", path)
            return _answered(connection)

    @contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HUNG_AFTER_SECONDS)
        try:
            yield connection
        finally:
            connection.close()

    def load(self, requests: int) -> Load:
        """So many requests of 64 callers; each answer is held against what the double must have said."""
        load = Load()
        with ThreadPoolExecutor(CALLERS) as callers:
            for number, answered in enumerate(callers.map(self._ask_numbered, range(requests))):
                load.statuses[answered.status] += 1
                if answered.status == 200 and not is_right(number, answered.body):
                    load.wrong.append(f"{number}: {answered.body}")
        return load

    def _ask_numbered(self, number: int) -> Answered:
        give_up_at = time.monotonic() + GIVES_UP_AFTER_SECONDS
        while True:
            answered = self.ask(f"q{number}", documents_of(number))
            if answered.status not in REFUSED or time.monotonic() > give_up_at:
                return answered
            time.sleep(min(int(answered.headers.get("retry-after", 1)), 1))

    def threads(self) -> int:
        """Of all its processes."""
        family = [psutil.Process(self.process.pid)]
        family += family[0].children(recursive=True)
        return sum(member.num_threads() for member in family)


def _answered(connection: http.client.HTTPConnection) -> Answered:
    reply = connection.getresponse()
    text = reply.read()
    body = json.loads(text) if reply.headers.get_content_type() == "application/json" else text
    return Answered(reply.status, {name.lower(): value for name, value in reply.headers.items()}, body)


def documents_of(number: int) -> list[str]:
    """Six of different lengths, each request's in an order of its own."""
    by_length = [f"{number} " + "word " * (3 * length) for length in range(6)]
    return random.Random(number).sample(by_length, 6)


def is_right(number: int, body: Any) -> bool:
    """Whether the first three are those that the double scores best: of all, or of those it came to in time."""
    best = body["best"] if isinstance(body, dict) else [result["text"] for result in body][:3]
    documents = documents_of(number)
    return any(
        best == [*scored, *(text for text in documents if text not in scored)][:3]
        for count in range(len(documents), -1, -1)
        for scored in combinations(sorted(documents, key=len), count)
    )


@contextmanager
def served(
    python: Path, command: str, path: str, directory: Path, broker_url: str, **more: str
) -> Iterator[Site]:
    """`python -m COMMAND` in a directory, until the end; `{port}` in it is a free one."""
    port = free_port()
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = {**kept, "RERANKQ_BROKER_URL": f"{broker_url}?client_name={CLIENT_NAME}", **more}
    words = [str(python), "-m", *command.format(port=port).split()]
    tied = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid()), *words]
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(tied, cwd=directory, env=environment, stdout=output, stderr=output)
    try:
        site = Site(port, path, process, log)
        _wait_until_it_answers(site)
        yield site
    finally:
        process.terminate()
        process.wait(ENDS_WITHIN_SECONDS)


def _wait_until_it_answers(site: Site) -> None:
    give_up_at = time.monotonic() + STARTS_WITHIN_SECONDS
    while time.monotonic() < give_up_at and site.process.poll() is None:
        try:
            site.ask("q", ["a"])
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"the server did not answer; its last words:\n{site.log.read_text()[-3000:]}")


def awaited_channels(redis: "Redis") -> list[bytes]:
    """Channels of jobs that somebody waits for."""
    return redis.pubsub_channels("celery-task-meta-?*")


def connections(redis: "Redis") -> list[dict[str, str]]:
    """The application's."""
    return [client for client in redis.client_list() if client["name"] == CLIENT_NAME]
