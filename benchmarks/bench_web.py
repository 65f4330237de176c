"""Callers of one event loop against goodput: answers in time, refusals, p50 and p99, and how late the loop runs.

    python -m benchmarks.bench_web --callers 1 4 16 64 --seconds 10
    python -m benchmarks.bench_web --model mini

A service with an engine double of a fixed pace, so that what a machine can score is known and what is measured is who
gets it. Each caller asks, and asks again; whoever is refused comes back when told. The last line is JSON.

With `--model` the callers ask by HTTP: the FastAPI application of docs/web.md before a service with that model, and in
turns with it CrossEncoder behind a plain FastAPI with the same model; what came later than `--timeout` is late. FastAPI
and uvicorn are installed beside, as for `make test-neighbours`.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rerankq import AsyncRerankClient, QueueFull, RerankError
from rerankq.contract.closed_pipes import ends_quietly
from tests.conftest import REPOSITORY
from tests.neighbours.environments.web_site import Site, served
from tests.neighbours.side import side_environment
from tests.service import Service
from tests.web_examples import write_examples

DOCUMENTS = 10
WARM_UP_JOBS = 5
LAG_PERIOD_SECONDS = 0.005
HTTP_JOBS = 64
SNIPPET_CHARACTERS = 300  # what a search page has of a document
MAX_LENGTH_TOKENS = 1024
THREADS = 2  # of the processor, for either model


@dataclass
class Outcomes:
    """What became of the calls."""

    ends: Counter[str] = field(default_factory=Counter[str])
    answered_seconds: list[float] = field(default_factory=list[float])
    failed_seconds: list[float] = field(default_factory=list[float])
    lags_seconds: list[float] = field(default_factory=list[float])

    def told(self, callers: int, seconds: float) -> dict[str, Any]:
        """One row of the table."""
        return {
            "callers": callers,
            "answered_per_second": round(len(self.answered_seconds) / seconds, 2),
            "p50_ms": _ms(self.answered_seconds, 0.5),
            "p99_ms": _ms(self.answered_seconds, 0.99),
            "failure_held_p50_ms": _ms(self.failed_seconds, 0.5),
            "loop_lag_p99_ms": _ms(self.lags_seconds, 0.99),
            **dict(self.ends),
        }


async def caller(
    client: AsyncRerankClient, numbers: "itertools.count[int]", timeout: float, outcomes: Outcomes
) -> None:
    """Ask for ever."""
    while True:
        texts = [f"document {next(numbers)}" for _ in range(DOCUMENTS)]
        began = time.perf_counter()
        try:
            await client.rerank("query", texts, timeout=timeout)
        except RerankError as error:
            outcomes.failed_seconds.append(time.perf_counter() - began)
            outcomes.ends[type(error).__name__] += 1
            if isinstance(error, QueueFull):
                await asyncio.sleep(error.retry_after_seconds)
        else:
            outcomes.answered_seconds.append(time.perf_counter() - began)
            outcomes.ends["answered"] += 1


async def watch_the_loop(outcomes: Outcomes) -> None:
    """Note how late it comes back to what is due."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(LAG_PERIOD_SECONDS)
        outcomes.lags_seconds.append(time.perf_counter() - began - LAG_PERIOD_SECONDS)


async def measure(url: str, callers: int, seconds: float, timeout: float) -> dict[str, Any]:
    """One load for so many seconds, after a second of it that does not count."""
    outcomes, numbers = Outcomes(), itertools.count()
    async with AsyncRerankClient(url) as client:
        for _ in range(WARM_UP_JOBS):
            await client.rerank("warm up", [f"document {next(numbers)}" for _ in range(DOCUMENTS)])
        asking = [asyncio.create_task(caller(client, numbers, timeout, outcomes)) for _ in range(callers)]
        asking.append(asyncio.create_task(watch_the_loop(outcomes)))
        await asyncio.sleep(timeout)
        for counted in (
            outcomes.answered_seconds,
            outcomes.failed_seconds,
            outcomes.lags_seconds,
            outcomes.ends,
        ):
            counted.clear()
        await asyncio.sleep(seconds)
        row = outcomes.told(callers, seconds)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        while any((await client.lanes()).values()):
            await asyncio.sleep(0.05)
    return row


def search_jobs(count: int) -> list[tuple[str, list[str]]]:
    """Queries with ten snippets each, as a search page has them."""
    from benchmarks.bench_engine import lognormal_pairs

    pairs = [
        (query, f"{n} {text}"[:SNIPPET_CHARACTERS])
        for n, (query, text) in enumerate(lognormal_pairs(count, DOCUMENTS))
    ]
    starts = range(0, len(pairs), DOCUMENTS)
    return [(pairs[at][0], [text for _, text in pairs[at : at + DOCUMENTS]]) for at in starts]


def over_http(model_name: str, callers: list[int], seconds: float, timeout: float) -> list[dict[str, Any]]:
    """Both servers with one model, in turns."""
    from benchmarks.bench_engine import model_directory

    model = model_directory(model_name, Path(tempfile.gettempdir()) / "rerankq-bench-models")
    jobs = search_jobs(HTTP_JOBS)
    rows: list[dict[str, Any]] = []
    with ExitStack() as running:
        service = running.enter_context(
            Service(model=model, threads=THREADS, max_length_tokens=MAX_LENGTH_TOKENS)
        )
        sites = _sites(running, service, model)
        for count, (name, site) in itertools.product(callers, sites.items()):
            rows.append({"server": name, **measure_site(site, jobs, count, seconds, timeout)})
            print("  ".join(f"{title} {value}" for title, value in rows[-1].items()), flush=True)
    return rows


def _sites(running: ExitStack, service: Service, model: Path) -> dict[str, Site]:
    directory = Path(running.enter_context(tempfile.TemporaryDirectory()))
    write_examples(directory)
    beside = side_environment("fastapi>=0.115", "uvicorn>=0.30")
    packages = next((beside.parent.parent / "lib").glob("python*/site-packages"))
    sites: dict[str, Site] = {}
    # CrossEncoder wants our own Python, which has no FastAPI; the side one has no torch, and rerankq needs none.
    for name, python, path in (
        ("rerankq", beside, ""),
        ("crossencoder", Path(sys.executable), f":{packages}"),
    ):
        command = f"uvicorn --factory benchmarks.web_servers:{name} --port {{port}} --log-level warning"
        environment = {"PYTHONPATH": f"{directory}:{REPOSITORY}{path}", "BENCH_MODEL": str(model)}
        environment["BENCH_MAX_LENGTH"] = str(MAX_LENGTH_TOKENS)
        environment |= {"OMP_NUM_THREADS": str(THREADS), "TOKENIZERS_PARALLELISM": "true"}
        home = directory / name
        home.mkdir()
        url = service.redis.url
        sites[name] = running.enter_context(
            served(python, command, "/search?query=", home, url, **environment)
        )
    return sites


def measure_site(
    site: Site, jobs: list[tuple[str, list[str]]], callers: int, seconds: float, timeout: float
) -> dict[str, Any]:
    """One load for so many seconds, after as long as one call may take, which does not count."""
    outcomes, numbers = Outcomes(), itertools.count()
    counted_from, over_at = time.perf_counter() + timeout, time.perf_counter() + timeout + seconds

    def call() -> None:
        while (began := time.perf_counter()) < over_at:
            retry_after = 0
            try:
                answered = site.ask(*jobs[next(numbers) % len(jobs)])
                end, retry_after = str(answered.status), int(answered.headers.get("retry-after", 0))
            except TimeoutError:
                end = "hung"
            if began > counted_from:
                _count(outcomes, end, time.perf_counter() - began, timeout)
            time.sleep(retry_after)

    asking = [threading.Thread(target=call) for _ in range(callers)]
    site.get("/lags")
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    outcomes.lags_seconds = site.get("/lags").body
    return outcomes.told(callers, seconds)


def _count(outcomes: Outcomes, end: str, took: float, timeout: float) -> None:
    in_time = end == "200" and took <= timeout
    (outcomes.answered_seconds if in_time else outcomes.failed_seconds).append(took)
    outcomes.ends["answered" if in_time else "late" if end == "200" else end] += 1


def _ms(values: list[float], share: float) -> float | None:
    if len(values) < 2:
        return round(1000 * values[0], 1) if values else None
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return round(1000 * cuts[round(100 * share) - 1], 1)


def main() -> None:
    """Run it; see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--timeout", type=float, default=2.0)
    parser.add_argument("--pair-ms", type=float, default=20.0, help="what the double takes for a document")
    parser.add_argument("--model", help="by HTTP, beside CrossEncoder: small, mini, a directory or a Hub id")
    chosen = parser.parse_args()
    if chosen.model:
        rows = over_http(chosen.model, chosen.callers, chosen.seconds, chosen.timeout)
        print(
            json.dumps(
                {"model": chosen.model, "documents": DOCUMENTS, "timeout": chosen.timeout, "rows": rows}
            )
        )
        return
    rows = []
    with Service(engine=f"rerankq_worker.doubles:slow?batch_ms=0&pair_ms={chosen.pair_ms}") as service:
        for callers in chosen.callers:
            rows.append(asyncio.run(measure(service.redis.url, callers, chosen.seconds, chosen.timeout)))
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    print(
        json.dumps(
            {"pair_ms": chosen.pair_ms, "documents": DOCUMENTS, "timeout": chosen.timeout, "rows": rows}
        )
    )


if __name__ == "__main__":
    with ends_quietly():
        main()
