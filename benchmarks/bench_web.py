"""Callers of one event loop against goodput: answers in time, refusals, p50 and p99, and how late the loop runs.

    python -m benchmarks.bench_web --callers 1 4 16 64 --seconds 10

A service with an engine double of a fixed pace, so that what a machine can score is known and what is measured is who
gets it. Each caller asks, and asks again; whoever is refused comes back when told. The last line is JSON.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rerankq import AsyncRerankClient, QueueFull, RerankError
from tests.service import Service

DOCUMENTS = 10
WARM_UP_JOBS = 5
LAG_PERIOD_SECONDS = 0.005


@dataclass
class Tally:
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
    client: AsyncRerankClient, numbers: "itertools.count[int]", timeout: float, tally: Tally
) -> None:
    """Ask for ever."""
    while True:
        texts = [f"document {next(numbers)}" for _ in range(DOCUMENTS)]
        began = time.perf_counter()
        try:
            await client.rerank("query", texts, timeout=timeout)
        except RerankError as error:
            tally.failed_seconds.append(time.perf_counter() - began)
            tally.ends[type(error).__name__] += 1
            if isinstance(error, QueueFull):
                await asyncio.sleep(error.retry_after_seconds)
        else:
            tally.answered_seconds.append(time.perf_counter() - began)
            tally.ends["answered"] += 1


async def watch_the_loop(tally: Tally) -> None:
    """Note how late it comes back to what is due."""
    while True:
        began = time.perf_counter()
        await asyncio.sleep(LAG_PERIOD_SECONDS)
        tally.lags_seconds.append(time.perf_counter() - began - LAG_PERIOD_SECONDS)


async def measure(url: str, callers: int, seconds: float, timeout: float) -> dict[str, Any]:
    """One load for so many seconds, after a second of it that does not count."""
    tally, numbers = Tally(), itertools.count()
    async with AsyncRerankClient(url) as client:
        for _ in range(WARM_UP_JOBS):
            await client.rerank("warm up", [f"document {next(numbers)}" for _ in range(DOCUMENTS)])
        asking = [asyncio.create_task(caller(client, numbers, timeout, tally)) for _ in range(callers)]
        asking.append(asyncio.create_task(watch_the_loop(tally)))
        await asyncio.sleep(timeout)
        for counted in (tally.answered_seconds, tally.failed_seconds, tally.lags_seconds, tally.ends):
            counted.clear()
        await asyncio.sleep(seconds)
        row = tally.told(callers, seconds)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        while any((await client.lanes()).values()):
            await asyncio.sleep(0.05)
    return row


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
    chosen = parser.parse_args()
    rows: list[dict[str, Any]] = []
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
    main()
