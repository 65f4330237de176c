"""A service and whoever asks it, in a process of their own, of this checkout or another: what `bench_service` compares.

Takes orders as lines of JSON, answers each with a line, and ends with its input. Run by path, for another checkout has
no such file; of that it uses `tests.service` and what is public. Knows no other side, counts, and judges nothing.
"""

import asyncio
import contextlib
import itertools
import json
import re
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from rerankq import AsyncRerankClient, Ranking
from rerankq.bulk import rerank_many
from rerankq.packing import PackSize
from rerankq_worker.link import health
from tests.service import Service

PATIENCE_SECONDS = 60.0
READY_WITHIN_SECONDS = 60.0
STOCKED_WITHIN_SECONDS = 240.0
FEEDER_PERIOD_SECONDS = 0.1
FED_AT_ONCE = 100
LANE = re.compile(r"-(interactive|bulk)@")

Job = tuple[str, list[str]]
Told = dict[str, Any]


@dataclass
class Asking:
    """Callers who ask, and ask again when answered, until it is over."""

    jobs: Iterator[Job]
    over_at: float
    took_ms: list[float] = field(default_factory=list[float])
    parts_ms: list[tuple[float, float, float]] = field(default_factory=list[tuple[float, float, float]])
    """In the queue, tokenizing, at the engine."""

    def by_thread(self, client: Any) -> None:
        """One caller of the client for threads."""
        while (began := time.perf_counter()) < self.over_at:
            self._note(began, client.rerank(*next(self.jobs), timeout=PATIENCE_SECONDS))

    async def by_task(self, client: AsyncRerankClient) -> None:
        """One caller of the client for asyncio."""
        while (began := time.perf_counter()) < self.over_at:
            self._note(began, await client.rerank(*next(self.jobs), timeout=PATIENCE_SECONDS))

    def _note(self, began: float, ranking: Ranking) -> None:
        self.took_ms.append(1000 * (time.perf_counter() - began))
        spent = ranking.timings
        self.parts_ms.append(
            (1000 * spent.queued_seconds, 1000 * spent.tokenize_seconds, 1000 * spent.score_seconds)
        )


class Asked:
    """A service of some devices, and all that is done to it; each public method is an order."""

    def __init__(self, services: list[Service], engine: str | None) -> None:
        self._services, self._engine = services, engine
        self._service, self._client = services[0], services[0].client
        self._jobs: dict[str, Iterator[Job]] = {}
        self._bulk: Bulk | None = None
        self._feeder: Feeder | None = None

    def prepare(self, name: str, jobs: list[Job]) -> Told:
        """Jobs to ask for under this name, over and over."""
        self._jobs[name] = _Shared(jobs)
        return {}

    def threads(self, name: str, seconds: float, callers: int, watched: bool) -> Told:
        """So many threads with one client, as in a web application."""

        def run(asking: Asking) -> None:
            with ThreadPoolExecutor(callers) as threads:
                list(threads.map(asking.by_thread, [self._client] * callers))

        return self._asked(name, seconds, watched, run)

    def tasks(self, name: str, seconds: float, callers: int, watched: bool) -> Told:
        """So many tasks of one event loop."""

        async def ask(asking: Asking) -> None:
            async with AsyncRerankClient(settings=self._service.client.settings) as client:
                await asyncio.gather(*(asking.by_task(client) for _ in range(callers)))

        return self._asked(name, seconds, watched, lambda asking: asyncio.run(ask(asking)))

    def bulk_on(self, name: str, pack_pairs: int) -> Told:
        """Bulk work without end from here on, as much as the service takes."""
        self._bulk = Bulk(self._jobs[name], self._client, PackSize(max_pairs=pack_pairs))
        self._bulk.start()
        return {}

    def bulk_off(self) -> Told:
        """No more of it; what was sent is waited for."""
        assert self._bulk is not None
        self._bulk.is_over.set()
        self._bulk.join(PATIENCE_SECONDS)
        assert not self._bulk.is_alive(), f"bulk work was not done {PATIENCE_SECONDS:.0f} s after its end"
        assert self._bulk.error is None, self._bulk.error
        return {}

    def look_on(self, seconds: float) -> Told:
        """What the devices do meanwhile, from one word of theirs to another."""
        told: list[Told] = []
        for _ in range(2):
            devices = self._devices()
            told.append({"clock": devices[0]["clock"], "device": devices})
            time.sleep(seconds if len(told) == 1 else 0)
        return {"before": told[0], "after": told[1]}

    def alone(self, seconds: float) -> Told:
        """Pairs a second of the same engine called directly, in full batches, one after the other."""
        from rerankq_worker.engine_process.process import make_engine
        from rerankq_worker.settings import WorkerSettings

        engine: Any = make_engine(WorkerSettings(model="small", engine_factory=str(self._engine)), "cpu0")
        rows, batches = [[0, 1, 2]] * engine.info.max_batch_pairs, 0
        began = time.perf_counter()
        while (passed := time.perf_counter() - began) < seconds:
            engine.score(rows)
            batches += 1
        return {"pairs_per_second": batches * len(rows) / passed}

    def stock(self, name: str, waiting: int) -> Told:
        """So many jobs wait in the bulk lane from here on, however fast they are done."""
        if self._feeder is None:
            self._feeder = Feeder(self._service, self._jobs[name])
            self._feeder.start()
        self._feeder.wanted = waiting
        began = time.perf_counter()
        self._service.wait_until(lambda: self._waiting() >= 0.95 * waiting, STOCKED_WITHIN_SECONDS)
        return {"seconds": time.perf_counter() - began}

    def _asked(self, name: str, seconds: float, watched: bool, run: Callable[[Asking], None]) -> Told:
        # Where the engines are watched, their words are waited for while nobody's clock runs.
        devices = self._devices if watched else list
        before = {"device": devices(), **self._counts()}
        asking = Asking(self._jobs[name], time.perf_counter() + seconds)
        run(asking)
        after = {**self._counts(), "device": devices()}
        return {"before": before, "after": after, "took_ms": asking.took_ms, "parts_ms": asking.parts_ms}

    def _counts(self) -> Told:
        """Counters that only rise, of everything that works here."""
        return {
            "clock": time.perf_counter(),
            "processor": processor_seconds(self._services),
            "redis": redis_counts(self._service),
            "bulk_jobs": self._feeder.fed - self._waiting() if self._feeder else 0,
        }

    def _devices(self) -> list[Told]:
        return [device_counts(service) for service in self._services]

    def _waiting(self) -> int:
        return self._client.lanes()["bulk"]


class _Shared(Iterator[Job]):
    """Jobs over and over, for several threads."""

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = [(query, documents) for query, documents in jobs]
        self._numbers = itertools.count()

    def __next__(self) -> Job:
        return self._jobs[next(self._numbers) % len(self._jobs)]


class Bulk(threading.Thread):
    """`rerank_many` over jobs without end."""

    def __init__(self, jobs: Iterator[Job], client: Any, pack_size: PackSize) -> None:
        super().__init__(daemon=True)
        self.is_over = threading.Event()
        self.error: object = None
        self._jobs, self._client, self._pack_size = jobs, client, pack_size

    def run(self) -> None:
        """Until it is over, or one of them failed."""
        endless = itertools.takewhile(lambda _: not self.is_over.is_set(), self._jobs)
        for _, answer in rerank_many(endless, self._client, pack_size=self._pack_size):
            if not isinstance(answer, Ranking):
                self.error = answer
                return


class Feeder(threading.Thread):
    """Keeps a number of jobs waiting in the bulk lane, and asks for none of their answers."""

    def __init__(self, service: Service, jobs: Iterator[Job]) -> None:
        super().__init__(daemon=True)
        self.wanted = self.fed = 0
        self._service, self._jobs = service, jobs

    def run(self) -> None:
        """For as long as this process lives."""
        asyncio.run(self._feed())

    async def _feed(self) -> None:
        async with AsyncRerankClient(settings=self._service.client.settings) as client:
            while True:
                missing = self.wanted - (await client.lanes())["bulk"]
                batch = list(itertools.islice(self._jobs, max(min(missing, FED_AT_ONCE), 0)))
                await asyncio.gather(*(client.submit(*job, lane="bulk") for job in batch))
                self.fed += len(batch)
                await asyncio.sleep(0 if missing > FED_AT_ONCE else FEEDER_PERIOD_SECONDS)


def processor_seconds(services: list[Service]) -> dict[str, float]:
    """By what each process is: whoever asks, Redis, launcher, Celery's parents and children, engines."""
    spent: defaultdict[str, float] = defaultdict(float, client=time.process_time())
    spent["redis"] = _seconds(psutil.Process(services[0].redis.pid))
    for service in services:
        spent["launcher"] += _seconds(service.launcher())
        for name, process in _named(service.processes()):
            spent[name] += _seconds(process)
    return dict(spent)


def _named(processes: list[psutil.Process]) -> Iterator[tuple[str, psutil.Process]]:
    words = {process: process.cmdline() for process in processes}
    celery = {process.pid for process, said in words.items() if LANE.search(" ".join(said))}
    for process, said in words.items():
        if process.pid in celery:
            yield "children" if process.ppid() in celery else "parents", process
        else:
            yield "engine" if "engine" in said else "other", process


def _seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return times.user + times.system
    return 0.0


def redis_counts(service: Service) -> Told:
    """Calls by command, those of scripts too, and bytes in and out."""
    with service.redis.client() as client:
        stats: Any = client.info("stats")
        commands: Any = client.info("commandstats")
    bytes_of = {way: stats[f"total_net_{way}put_bytes"] for way in ("in", "out")}
    calls = {name.removeprefix("cmdstat_"): found["calls"] for name, found in commands.items()}
    return {"bytes": bytes_of, "calls": calls}


def device_counts(service: Service) -> Told:
    """What the engine's status file says next, and when that was."""
    file, asked_at = Path(service.environment["RERANKQ_RUNTIME_DIR"]) / "cpu0.json", time.monotonic()
    found: list[health.EngineStatus] = []

    def is_new() -> bool:
        status = health.read_status(file)
        found[:] = [status] if status and status.heartbeat_monotonic >= asked_at else []
        return bool(found)

    service.wait_until(is_new)
    told = found[0]
    counts = {"pairs": told.pairs, "busy_seconds": told.busy_seconds, "batches": told.batches}
    return {"clock": told.heartbeat_monotonic, **counts}


class _Borrowed:
    """The Redis of another service, which starts and stops it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def start(self) -> None:
        """It runs."""

    def __exit__(self, *_: object) -> None:
        """It goes on."""


@contextlib.contextmanager
def started(devices: int, **how: Any) -> Generator[list[Service]]:
    """A service of so many devices: a host each, for a CPU is one device to a host."""
    with ExitStack() as stack:
        services = [stack.enter_context(Service(**how))]
        workers = len(services[0].client.workers())
        for _ in range(devices - 1):
            other: Any = _Borrowed(services[0].redis.url)
            services.append(stack.enter_context(Service(redis=other, **how)))
        everybody = devices * workers
        services[0].wait_until(
            lambda: len(services[0].client.workers()) == everybody and services[-1].is_ready(),
            READY_WITHIN_SECONDS,
        )
        yield services


def main() -> None:
    """Take orders until there are none; the last argument is what the service is to be."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
    how = json.loads(sys.argv[1])
    # A worker's or a library's word on standard output would be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    with started(**how) as services:
        asked = Asked(services, how.get("engine"))
        print(json.dumps({"pid": services[0].launcher().pid}), file=answers, flush=True)
        for line in sys.stdin:
            order = json.loads(line)
            told = getattr(asked, order.pop("do"))(**order)
            print(json.dumps(told), file=answers, flush=True)


if __name__ == "__main__":
    main()
