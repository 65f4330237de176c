"""A whole service under Prometheus' eyes, what it does all day, and what can happen to each part of it."""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Self

import psutil

from rerankq import Job
from rerankq.contract import keys
from rerankq.contract.errors import QueueFull, RerankError
from rerankq.contract.messages import Lane
from rerankq_worker.doubles import Behaviour, DoubleEngine
from rerankq_worker.scoring import EngineBroken
from rerankq_worker.settings import WorkerSettings
from tests.neighbours.environments.prometheus import Prometheus
from tests.redis_server import RedisServer, free_port
from tests.service import TIED, Service
from tests.witness import token_of

KEY = "a-key-of-the-tests"
DEADLY, TOO_LARGE = "zanzibarium", "quuxification"
BALLAST_BYTES = 30_000_000  # beside it what connections take does not show
UP_WITHIN_SECONDS = 60.0
BATCH_SECONDS = 0.02
MOST_WAITING = 12


def engine(settings: WorkerSettings, device: str, **behaviour: Any) -> DoubleEngine:
    """In an engine's place: one whose device is lost as long as there is a file `lost` beside `WITNESS_FILE`."""
    if Path(os.environ["WITNESS_FILE"]).with_name("lost").exists():
        raise EngineBroken("the double's device is lost")
    return DoubleEngine(settings, device, Behaviour(**behaviour))


class Program:
    """One of ours, with an environment like the service's; killed as a container is, or stopped as one."""

    def __init__(self, service: Service, *words: str, **environment: object) -> None:
        self._service = service
        self._command = [*TIED, str(os.getpid()), sys.executable, "-m", *words]
        self._environment = service.environment | {name: str(value) for name, value in environment.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._service.log_file.open("ab") as log:
            self._process = subprocess.Popen(self._command, env=self._environment, stdout=log, stderr=log)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
        self._process = None

    def freeze_engine(self) -> None:
        """Its engine, which computes nothing from now on."""
        assert self._process is not None
        for process in psutil.Process(self._process.pid).children(recursive=True):
            if "engine" in process.cmdline():
                process.suspend()

    def kill(self) -> None:
        """All at once, without a word to anybody."""
        assert self._process is not None
        top = psutil.Process(self._process.pid)
        top.suspend()  # or it would start anew what is killed below it
        for process in [*top.children(recursive=True), top]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._process = None


class Watched:
    """`with Watched(directory) as watched:`: Redis, two launchers, the HTTP face, Flower, and Prometheus beside."""

    def __init__(self, directory: Path) -> None:
        behaviour = (
            f"batch_ms={BATCH_SECONDS * 1000:g}&die={token_of(DEADLY)}&out_of_memory={token_of(TOO_LARGE)}"
        )
        self.port, self.second_port, self.face_port, self.flower_port = (free_port() for _ in range(4))
        self.service = Service(
            engine=f"{__name__}:engine?{behaviour}",
            redis=RedisServer(appendonly=True, maxmemory="128mb", maxmemory_policy="noeviction"),
            metrics_port=self.port,
            stuck_after_seconds=600,
        )
        self.prometheus = Prometheus(directory, KEY)
        self._ended = contextlib.ExitStack()
        self._done: list[tuple[str, float]] = []
        self._tokens_of_a_pair = 0.0

    def __enter__(self) -> Self:
        with self._ended:
            self._start()
            self._ended = self._ended.pop_all()
        return self

    def _start(self) -> None:
        self._ended.enter_context(self.service)
        with self.service.redis.client() as redis:
            redis.set("ballast", bytes(BALLAST_BYTES))
        self.second = Program(
            self.service,
            "rerankq_worker",
            RERANKQ_RUNTIME_DIR=self.service.runtime_directory.with_name("second"),
            RERANKQ_METRICS_PORT=self.second_port,
        )
        self.face = Program(
            self.service,
            *("rerankq.cli", "serve", "--port", str(self.face_port)),
            RERANKQ_HTTP_KEYS=KEY,
            RERANKQ_HTTP_CANARY_SECONDS=5,
            RERANKQ_HTTP_MAX_WAITING=MOST_WAITING,
            RERANKQ_REDIS_TIMEOUT_SECONDS=5,
        )
        flower = ("flower", "--address=127.0.0.1", f"--port={self.flower_port}", "--basic-auth=a:b")
        self.flower = Program(self.service, *("celery", "-A", "rerankq_worker.app:app", *flower))
        for program in (self.second, self.face, self.flower):
            program.start()
            self._ended.callback(program.stop)
        self.wait(lambda: self.ready() == 4 and _is_open(self.face_port) and _is_open(self.flower_port))
        self.prometheus.scrape(
            rerankq_worker=[self.port, self.second_port],
            rerankq_http=[self.face_port],
            flower=[self.flower_port],
        )
        self._ended.enter_context(self.prometheus)
        self.wait(lambda: len(self.prometheus.query("up == 1")) == 4 and not self.prometheus.alerts())

    def __exit__(self, *_: object) -> None:
        self._ended.close()

    def scale_up(self) -> None:
        """The second launcher, and service discovery finds it."""
        self.second.start()
        self.prometheus.scrape(rerankq_worker=[self.port, self.second_port])

    def scale_down(self) -> None:
        """Without the second launcher, in good order."""
        self.second.stop()
        self.prometheus.scrape(rerankq_worker=[self.port])

    def ready(self) -> int:
        """Celery workers that say so."""
        return sum(worker.state in ("ready", "busy") for worker in self.service.client.workers())

    def wait(self, is_true: Callable[[], object], seconds: float = UP_WITHIN_SECONDS) -> None:
        self.service.wait_until(is_true, seconds)

    def ask(self, *words: str, lane: Lane = "interactive", count: int = 1) -> list[Job]:
        """Jobs that nobody need wait for, of these words."""
        return [self.service.client.submit(f"query {n}", list(words), lane=lane) for n in range(count)]

    def be_refused(self, count: int) -> None:
        """So many bulk jobs, in a lane that has more than its client may add to, and the client tells of it."""
        with contextlib.closing(self.service.producer(max_bulk_jobs=1)) as client:
            for _ in range(count):
                with contextlib.suppress(QueueFull):
                    client.submit("q", ["a"], lane="bulk")
            time.sleep(1.5)  # it looks around once a second at most
            client.workers()

    def by_http(self, documents: int) -> None:
        """A request for a ranking, and its reply."""
        connection = http.client.HTTPConnection("127.0.0.1", self.face_port, timeout=60)
        body = json.dumps({"query": f"query {time.monotonic()}", "documents": _texts(documents)})
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request("POST", "/v1/rerank", body, headers)
            if connection.getresponse().status == 200:
                self._done.append(("http", time.monotonic()))

    def rank(self, lane: Lane, documents: int) -> None:
        """A job as it comes all day, and its answer."""
        query = f"query {time.monotonic()}"
        ranking = self.service.client.rerank(query, _texts(documents), timeout=30, lane=lane)
        self._done.append((lane, time.monotonic()))
        self._tokens_of_a_pair = ranking.usage.tokens / documents

    def done_per_second(self, seconds: float) -> dict[str, float]:
        """How often each of these was answered in so many last seconds."""
        since = time.monotonic() - seconds
        counted = Counter(what for what, at in self._done if at > since)
        return {what: count / seconds for what, count in counted.items()} | {
            "tokens of a pair": self._tokens_of_a_pair
        }

    @contextlib.contextmanager
    def configured(self, **settings: str | int) -> Generator[None]:
        """Redis with other settings for as long as this is open."""
        with self.service.redis.client() as redis:
            names = {name: name.replace("_", "-") for name in settings}
            before = {name: str(redis.config_get(names[name])[names[name]]) for name in settings}
            for name, value in settings.items():
                redis.config_set(names[name], value)
            yield
            for name, value in before.items():
                redis.config_set(names[name], value)

    @contextlib.contextmanager
    def filled(self, fraction: float) -> Generator[None]:
        """Redis with so little memory that what it holds is this fraction of it."""
        with self.service.redis.client() as redis:
            used = redis.info("memory")["used_memory"]
        with self.configured(maxmemory=int(used / fraction)):
            yield

    @contextlib.contextmanager
    def without_right(self, command: str) -> Generator[None]:
        """Redis that refuses a command to everybody."""
        with self.service.redis.client() as redis:
            redis.execute_command("ACL", "SETUSER", "default", f"-{command}")
            yield
            redis.execute_command("ACL", "SETUSER", "default", f"+{command}")

    @contextlib.contextmanager
    def frozen_engine(self) -> Generator[None]:
        """The first launcher's engine, hung in a way that it cannot end by itself."""
        engine = self.service.engine()
        engine.suspend()
        yield
        engine.resume()

    @contextlib.contextmanager
    def lost_device(self) -> Generator[None]:
        """The engines end, and none comes back."""
        marker = self.service.witness_file.with_name("lost")
        marker.touch()
        self.service.kill(self.service.engine())
        yield
        marker.unlink()

    @contextlib.contextmanager
    def busy(self, *acts: tuple[float, Callable[[], object]]) -> Generator[None]:
        """Each of these is done again and again, that many seconds apart."""
        over = threading.Event()

        def keep_on(pause_seconds: float, act: Callable[[], object]) -> None:
            while not over.wait(pause_seconds):
                with contextlib.suppress(RerankError, OSError, http.client.HTTPException):
                    act()

        threads = [threading.Thread(target=keep_on, args=each) for each in acts]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def age_bulk_jobs(self, seconds: float) -> None:
        """Have those that wait in the bulk lane submitted so much earlier."""
        with self.service.redis.client() as redis:
            for key in redis.scan_iter(keys.job("*")):
                if submitted := redis.hget(key, "submitted"):
                    redis.hset(key, "submitted", float(submitted) - seconds)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _texts(documents: int) -> list[str]:
    return [f"document {number}" for number in range(documents)]
