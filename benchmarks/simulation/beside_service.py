"""The simulation beside real services: one and two devices that take their time, asked at the very same moments.

    python -m benchmarks.simulation.beside_service --seconds 60

The device is a double that sleeps for 60 ms a batch and 6 ms a pair: slow enough for a machine that does other work.
What a job takes beside it is measured before and after, of one caller alone. Prints both beside each other and whether
they are within `ALLOWED` of each other; exit code 1 where one case is not. The last line is JSON.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from benchmarks.asked_service import device_counts, started
from benchmarks.service_sides import jobs_of
from benchmarks.simulation import load
from benchmarks.simulation.figures import Figures
from benchmarks.simulation.run import Row
from benchmarks.simulation.world import Job, World
from rerankq.contract.closed_pipes import ends_quietly
from tests.service import Service

BATCH_MS, PAIR_MS = 60.0, 6.0
DOUBLE = f"rerankq_worker.doubles:slow?batch_ms={BATCH_MS}&pair_ms={PAIR_MS}"
DOCUMENTS = 50
ALONE = 10  # before, and after
CALLERS = 64
PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Case:
    """A fleet and what is asked of it."""

    name: str
    devices: int
    rate: float
    bulk_jobs_a_second: float = 0.0
    """That are there at the beginning, for each second of the run."""
    allowed_of_throughput: float = 0.05
    """By how much of them pairs/s and the busy share may differ."""


CASES = (
    Case("1 device, 1.2 jobs/s", 1, 1.2),
    Case("1 device, 1.9 jobs/s", 1, 1.9),
    Case("2 devices, 3.8 jobs/s", 2, 3.8),
    # A worker of the simulation holds its device up for all that it does beside; a real one reads meanwhile.
    Case("1 device, 0.7 jobs/s and more bulk work than it can do", 1, 0.7, 2.0, 0.2),
)
ALLOWED_OF_TIMES = 0.25
"""The same of what callers waited for: on a machine that does other work a lone caller's wait is as uncertain."""
TIMES, THROUGHPUT = ("mean_ms", "p50_ms", "p95_ms"), ("busy", "pairs_per_second")


@dataclass(slots=True)
class Real:
    """A service, and callers who come when they are told."""

    service: Service
    took: list[float] = field(default_factory=list[float])

    def ask(self, number: int) -> float:
        """One answer, in seconds."""
        query, documents = jobs_of(DOCUMENTS)[number % 48]
        began = time.monotonic()
        self.service.client.rerank(query, documents, timeout=PATIENCE_SECONDS)
        return time.monotonic() - began

    def ask_at(self, moments: Sequence[float]) -> None:
        """One caller for each moment, whether or not those before have been answered."""
        began = time.monotonic()
        with ThreadPoolExecutor(CALLERS) as callers:
            asked: list[Any] = []
            for number, moment in enumerate(moments):
                time.sleep(max(0.0, began + moment - time.monotonic()))
                asked.append(callers.submit(self.ask, number))
            self.took = [each.result() for each in asked]


def measured(case: Case, seconds: float, seed: int) -> Row:
    """What callers of the service and of its simulation had."""
    moments = [job.arrived_at for job in load.poisson(seed, "interactive", case.rate, DOCUMENTS, seconds)]
    bulk = round(case.bulk_jobs_a_second * seconds)
    with started(case.devices, engine=DOUBLE) as services:
        real = Real(services[0])
        real.ask(0)
        alone = [real.ask(number) for number in range(ALONE)]
        _stock(services[0], bulk)
        before = [device_counts(service) for service in services]
        real.ask_at(moments)
        after = [device_counts(service) for service in services]
        if not bulk:
            alone += [real.ask(number) for number in range(ALONE)]
    figures = _figures(statistics.median(alone))
    world = _simulated(case, figures, moments, bulk)
    answered = [job for job in world.jobs if job.lane == "interactive" and job.ended_at is not None]
    rose = [{name: b[name] - a[name] for name in a} for a, b in zip(before, after, strict=True)]
    passed = statistics.fmean(device["clock"] for device in rose)
    pairs = [device["pairs"] for device in rose]
    return {
        "case": case.name,
        "jobs": len(moments),
        "beside_ms": round(1000 * figures.job_seconds, 1),
        "service": {
            "answered": len(real.took),
            "pairs": pairs,
            **_told(real.took),
            "busy": round(sum(device["busy_seconds"] for device in rose) / passed / case.devices, 3),
            "pairs_per_second": round(sum(pairs) / passed, 1),
        },
        "simulation": {
            "answered": len(answered),
            "pairs": [device.pairs for device in world.devices],
            **_told([(job.ended_at or 0.0) - job.arrived_at for job in answered]),
            "busy": round(world.busy(), 3),
            "pairs_per_second": round(sum(device.pairs for device in world.devices) / world.now, 1),
        },
    }


def differences(case: Case, row: Row) -> list[str]:
    """In what the two are further apart than is allowed; nothing where the simulation tells the truth."""
    service, simulation = row["service"], row["simulation"]
    wrong = [
        f"{side['answered']} of {row['jobs']} answered"
        for side in (service, simulation)
        if side["answered"] != row["jobs"]
    ]
    allowed = dict.fromkeys(TIMES, ALLOWED_OF_TIMES) | dict.fromkeys(THROUGHPUT, case.allowed_of_throughput)
    return wrong + [
        f"{name}: {service[name]}, simulated {simulation[name]}, {share:.0%} is allowed"
        for name, share in allowed.items()
        if abs(service[name] - simulation[name]) > share * service[name]
    ]


def _figures(alone_seconds: float) -> Figures:
    """Of the double, and what a lone caller waits for beside its passes."""
    device = Figures(
        pair_seconds=PAIR_MS / 1000, batch_seconds=BATCH_MS / 1000, interactive_workers=1, bulk_workers=1
    )
    passes = device.pass_seconds(device.batch_pairs) + device.pass_seconds(DOCUMENTS - device.batch_pairs)
    return Figures(
        pair_seconds=device.pair_seconds,
        batch_seconds=device.batch_seconds,
        job_seconds=max(0.0, alone_seconds - passes),
        interactive_workers=1,
        bulk_workers=1,
    )


def _stock(service: Service, jobs: int) -> None:
    asked = jobs_of(DOCUMENTS)
    for number in range(jobs):
        query, documents = asked[number % len(asked)]
        service.client.submit(f"{query} {number}", documents, lane="bulk")


def _simulated(case: Case, figures: Figures, moments: Sequence[float], bulk: int) -> World:
    world = World(figures)
    for _ in range(case.devices):
        world.add_device()
    world.arrive(load.backlog(bulk, DOCUMENTS))
    world.arrive(Job("interactive", DOCUMENTS, moment) for moment in moments)
    world.run_until(moments[-1] + 1)
    while any(job.ended_at is None for job in world.jobs if job.lane == "interactive"):
        world.run_until(world.now + 0.1)
    return world


def _told(took: Sequence[float]) -> Row:
    ordered = sorted(took)
    at = {share: ordered[min(int(share / 100 * len(ordered)), len(ordered) - 1)] for share in (50, 95)}
    means = {"mean_ms": statistics.fmean(took), **{f"p{share}_ms": value for share, value in at.items()}}
    return {name: round(1000 * value) for name, value in means.items()}


def main() -> int:
    """0 where the service did as simulated, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each case")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows: list[Row] = []
    for case in CASES:
        row = measured(case, options.seconds, options.seed)
        rows.append({**row, "differences": differences(case, row)})
        _show(rows[-1])
    found = {"benchmark": "simulation beside the service", "seconds": options.seconds, "found": rows}
    print(json.dumps(found))
    return int(any(row["differences"] for row in rows))


def _show(row: Row) -> None:
    print(f"{row['case']}: {row['jobs']} jobs, {row['beside_ms']} ms of each beside the device")
    for side in ("service", "simulation"):
        told = row[side]
        print(f"  {side:12}" + "".join(f"{name} {told[name]:<10}" for name in (*THROUGHPUT, *TIMES)))
    print("  " + ("; ".join(row["differences"]) or "as simulated"))


if __name__ == "__main__":
    with ends_quietly():
        sys.exit(main())
