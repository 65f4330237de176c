"""What the HTTP face costs, and how it stands beside other servers of rerankers.

    python -m benchmarks.bench_http                      # all four; or any of: adds callers beside kill
    python -m benchmarks.bench_http beside --model mini --callers 1 16 --seconds 10 --rounds 5

    adds      one caller: p50 by HTTP over p50 of the asyncio client in process, on engines that are none: one answers
              at once, one takes 10 ms a batch and 0.3 ms a document, as a GPU would
    callers   64 callers on a double of a fixed pace (20 ms a document), 2 s each to spare: answers in time, by HTTP
              over by the client. Whoever is refused comes back when told
    beside    one model behind each server, the same load: throughput, p50, p99; and processor time a request, of the
              server and all that works for it, which other work on the machine does not blur
    kill      SIGKILL in mid load: here to a Celery worker, elsewhere to the server, which has no worker apart and is
              started again at once; requests that failed, and for how long nobody was answered

All in turns (A B A B), ratios within a round: median and range. infinity runs in a Python of its own, named by
RERANKQ_BENCH_INFINITY_PYTHON, and is left out without one; FastAPI is installed beside, as for `make test-neighbours`.
The last line is JSON.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bench_web import DOCUMENTS, search_jobs
from benchmarks.http_servers import (
    MAX_LENGTH_TOKENS,
    NO_ANSWER,
    Ask,
    Server,
    all_servers,
    by_client,
    rerankq,
)
from rerankq import AsyncRerankClient
from rerankq.contract.closed_pipes import ends_quietly
from tests.service import Service

JOBS = 64
ENGINES = {
    "at once": "rerankq_worker.doubles:noop",
    "10 ms + 0.3 ms a document": "rerankq_worker.doubles:slow?batch_ms=10&pair_ms=0.3",
}
PACED = "rerankq_worker.doubles:slow?batch_ms=0&pair_ms=20"
PATIENT_SECONDS, HURRIED_SECONDS = 25.0, 2.0
CALLERS = 64
KILL_CALLERS = 8
PAUSE_SECONDS = 1.0  # of a caller who got no answer at all; as long as the shortest Retry-After
LEASE_SECONDS = 15.0  # as shipped; tests have a shorter one

MEASURED = ("per_second", "p50_ms", "p99_ms", "cpu_ms")

Row = dict[str, Any]
Job = tuple[str, list[str]]
Askers = list[Ask]


@dataclass
class Load:
    """What the requests of one load came to."""

    seconds: float
    processor_seconds: float = 0.0
    took_seconds: list[float] = field(default_factory=list[float])
    """Of those that were answered."""
    ends: Counter[int] = field(default_factory=Counter[int])
    longest_silence_seconds: float = 0.0
    answered_at: float = field(default_factory=time.perf_counter)

    def count(self, status: int, began: float) -> None:
        self.ends[status] += 1
        if status == 200:
            self.took_seconds.append(time.perf_counter() - began)
            self._hear()

    def end(self, began_at: float) -> None:
        self._hear()
        self.seconds = time.perf_counter() - began_at

    def _hear(self) -> None:
        silence = time.perf_counter() - self.answered_at
        self.longest_silence_seconds = max(self.longest_silence_seconds, silence)
        self.answered_at += silence

    def told(self, within: float = PATIENT_SECONDS) -> Row:
        in_time = sorted(took for took in self.took_seconds if took <= within)
        return {
            "per_second": round(len(in_time) / self.seconds, 2),
            "p50_ms": _ms(in_time, 0.5),
            "p99_ms": _ms(in_time, 0.99),
            "cpu_ms": round(1000 * self.processor_seconds / max(len(self.took_seconds), 1), 1),
            "failed": sum(count for status, count in self.ends.items() if status != 200),
            "ends": {status or "no answer": count for status, count in sorted(self.ends.items())},
        }


def jobs() -> Iterator[Job]:
    """Searches, no two alike."""
    for lap in itertools.count():
        for query, documents in search_jobs(JOBS):
            yield query, [f"{lap} {text}" for text in documents]


async def under_load(
    askers: Askers, asked: Iterator[Job], seconds: float, requests: int | None = None
) -> Load:
    """Each asker asks again when answered, for so many seconds, or until so many were asked."""
    load, began_at = Load(seconds), time.perf_counter()
    left = itertools.count() if requests is None else iter(range(requests))

    async def caller(ask: Ask) -> None:
        while time.perf_counter() < began_at + seconds and next(left, None) is not None:
            job, began = next(asked), time.perf_counter()
            ended = await ask(*job)
            load.count(ended.status, began)
            pause = PAUSE_SECONDS if ended.status == NO_ANSWER else ended.retry_after_seconds
            await asyncio.sleep(pause)

    await asyncio.gather(*map(caller, askers))
    load.end(began_at)
    return load


async def client_and_http(
    service: Service, server: Server, callers: int, timeout: float, load: Callable[[Askers], Any], rounds: int
) -> dict[str, list[Load]]:
    """The same load by the client and by HTTP, in turns, whoever was last first."""
    loads: dict[str, list[Load]] = {"client": [], "http": []}
    connections = [server.connection(timeout) for _ in range(callers)]
    async with AsyncRerankClient(service.redis.url) as client:
        askers = {
            "client": [by_client(client, timeout)] * callers,
            "http": [each.ask for each in connections],
        }
        for by in askers:
            await under_load(askers[by], jobs(), PATIENT_SECONDS, requests=2 * callers + 10)
        for by in itertools.islice(itertools.cycle(["client", "http", "http", "client"]), 2 * rounds):
            loads[by].append(await load(askers[by]))
            while any((await client.lanes()).values()):
                await asyncio.sleep(0.05)
    for connection in connections:
        connection.close()
    return loads


def adds(asked: argparse.Namespace) -> list[Row]:
    """p50 by HTTP over the client's."""
    rows: list[Row] = []
    for name, engine in ENGINES.items():
        with Service(engine=engine) as service, rerankq(service) as server:
            p50 = asyncio.run(_p50_in_turns(service, server, asked.rounds, asked.requests))
        row = {by: round(1000 * statistics.median(found), 2) for by, found in p50.items()}
        rows.append({"engine": name, "unit": "p50 ms", **row, **ratio(p50["http"], p50["client"])})
        show(rows[-1])
    return rows


async def _p50_in_turns(
    service: Service, server: Server, rounds: int, requests: int
) -> dict[str, list[float]]:
    """Of each round, in seconds. Asked by client and by HTTP in turns, so that both meet the same machine."""
    connection, asked = server.connection(PATIENT_SECONDS), jobs()
    p50: dict[str, list[float]] = {"client": [], "http": []}
    async with AsyncRerankClient(service.redis.url) as client:
        askers = {"client": by_client(client, PATIENT_SECONDS), "http": connection.ask}
        for round_number in range(rounds + 1):
            loads = {by: Load(0.0) for by in askers}
            for number in range(requests):
                for by in sorted(askers, reverse=bool(number % 2)):
                    job, began = next(asked), time.perf_counter()
                    loads[by].count((await askers[by](*job)).status, began)
            for by, load in loads.items() if round_number else ():  # the first warms up
                p50[by].append(statistics.median(load.took_seconds))
    connection.close()
    return p50


def callers(asked: argparse.Namespace) -> list[Row]:
    """Answers in time of 64 callers, by HTTP over the client's."""
    with Service(engine=PACED) as service, rerankq(service) as server:
        load = partial(under_load, asked=jobs(), seconds=asked.seconds)
        loads = asyncio.run(client_and_http(service, server, CALLERS, HURRIED_SECONDS, load, asked.rounds))
    told = {by: [each.told(HURRIED_SECONDS) for each in found] for by, found in loads.items()}
    good = {by: [row["per_second"] for row in rows] for by, rows in told.items()}
    rows = [{"by": by, **_medians(found)} for by, found in told.items()]
    rows.append({"callers": CALLERS, "http over client": ratio(good["http"], good["client"])})
    for row in rows:
        show(row)
    return rows


def beside(asked: argparse.Namespace) -> list[Row]:
    """Each server with the same model and load, in turns."""
    rows: list[Row] = []
    with ExitStack() as running:
        servers = _all(running, asked)[1]
        for count in asked.callers:
            loads: dict[str, list[Load]] = {server.name: [] for server in servers}
            for _, server in itertools.product(range(asked.rounds), servers):
                loads[server.name].append(asyncio.run(_load_of(server, count, asked.seconds)))
            rows += [_beside_row(count, name, found, loads["rerankq"]) for name, found in loads.items()]
            for row in rows[-len(servers) :]:
                show(row)
    return rows


def _beside_row(callers: int, name: str, found: Sequence[Load], ours: Sequence[Load]) -> Row:
    told, our_told = [load.told() for load in found], [load.told() for load in ours]
    per_second = ratio(*([row["per_second"] for row in rows] for rows in (our_told, told)))
    cpu = ratio(*([row["cpu_ms"] for row in rows] for rows in (told, our_told)))
    return {"callers": callers, "server": name, **_medians(told), "faster": per_second, "cpu": cpu}


def _medians(told: Sequence[Row]) -> Row:
    medians = {key: round(statistics.median(row[key] or 0 for row in told), 2) for key in MEASURED}
    return {**medians, "failed": sum(row["failed"] for row in told)}


async def _load_of(server: Server, callers: int, seconds: float) -> Load:
    connections = [server.connection(PATIENT_SECONDS) for _ in range(callers)]
    asked = jobs()
    await under_load([each.ask for each in connections], asked, PATIENT_SECONDS, requests=callers)
    spent = server.processor_seconds()
    load = await under_load([each.ask for each in connections], asked, seconds)
    load.processor_seconds = server.processor_seconds() - spent
    for connection in connections:
        connection.close()
    return load


def kill(asked: argparse.Namespace) -> list[Row]:
    """What a SIGKILL in mid load costs."""
    rows: list[Row] = []
    with ExitStack() as running:
        service, servers = _all(running, asked)
        for _, server in itertools.product(range(asked.kill_rounds), servers):

            def strike(server: Server = server) -> None:
                if server.name == "rerankq":
                    service.kill(service.celery_worker("interactive"))
                else:
                    server.kill()
                    server.start()

            asyncio.run(server.answered())
            load = asyncio.run(_struck(server, asked.kill_seconds, strike))
            rows.append(
                {"server": server.name, **load.told(), "silent_s": round(load.longest_silence_seconds, 1)}
            )
            show(rows[-1])
    return rows


async def _struck(server: Server, seconds: float, strike: Callable[[], None]) -> Load:
    connections = [server.connection(PATIENT_SECONDS) for _ in range(KILL_CALLERS)]
    # In this thread: whoever is started from another dies with it.
    striking = asyncio.get_running_loop().call_later(seconds / 4, strike)
    load = await under_load([each.ask for each in connections], jobs(), seconds)
    striking.cancel()
    for connection in connections:
        connection.close()
    return load


def _all(running: ExitStack, asked: argparse.Namespace) -> tuple[Service, list[Server]]:
    """A service, and every server, each with the same model."""
    from benchmarks.bench_engine import model_directory

    model = model_directory(asked.model, Path(tempfile.gettempdir()) / "rerankq-bench-models")
    how = {"threads": asked.threads, "max_length_tokens": MAX_LENGTH_TOKENS, "lease_seconds": LEASE_SECONDS}
    service = running.enter_context(Service(model=model, appendonly=True, **how))
    return service, all_servers(running, model, service, asked.threads)


def ratio(mine: Sequence[float], theirs: Sequence[float]) -> Row:
    """Mine over theirs, round by round."""
    found = sorted(m / t for m, t in zip(mine, theirs, strict=True) if t)
    if not found:
        return {"ratio": None}
    return {"ratio": round(statistics.median(found), 3), "range": [round(found[0], 3), round(found[-1], 3)]}


def _ms(ordered: Sequence[float], share: float) -> float | None:
    return round(1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)], 1) if ordered else None


def show(row: Row) -> None:
    print("  ".join(f"{title} {value}" for title, value in row.items()), flush=True)


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "adds": adds,
    "callers": callers,
    "beside": beside,
    "kill": kill,
}


def main() -> None:
    """Run it; see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument(
        "--model", default="small", help="of beside and kill: small, mini, a directory or a Hub id"
    )
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 16, 64], help="of beside")
    parser.add_argument("--threads", type=int, default=2, help="of the processor, for every model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=60, help="of each round of adds")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each round of callers and beside")
    parser.add_argument("--kill-rounds", type=int, default=2)
    parser.add_argument("--kill-seconds", type=float, default=60.0)
    asked = parser.parse_args()
    told: dict[str, list[Row]] = {}
    for part in asked.parts:
        print(f"--- {part}: {(PARTS[part].__doc__ or '').strip()}")
        told[part] = PARTS[part](asked)
    print(
        json.dumps(
            {
                "date": time.strftime("%Y-%m-%d"),
                "documents": DOCUMENTS,
                "model": asked.model,
                "threads": asked.threads,
                **told,
            }
        )
    )


if __name__ == "__main__":
    with ends_quietly():
        main()
