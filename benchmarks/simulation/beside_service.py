"""The simulation beside real services: one and two devices that take their time, asked at the very same moments.

    python -m benchmarks.simulation.beside_service --seconds 60

The device is a double that sleeps for 60 ms a batch and 6 ms a pair: slow enough for a machine that does other work.
What a job takes beside it is measured before and after, of one caller alone. The last line is JSON.
"""

import argparse
import json
import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from benchmarks.asked_service import device_counts, started
from benchmarks.service_sides import jobs_of
from benchmarks.simulation import load
from benchmarks.simulation.figures import Figures
from benchmarks.simulation.run import Row, of_lane
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


CASES = (
    Case("1 device, 1.2 jobs/s", 1, 1.2),
    Case("1 device, 1.9 jobs/s", 1, 1.9),
    Case("2 devices, 3.8 jobs/s", 2, 3.8),
    Case("1 device, 0.7 jobs/s and more bulk work than it can do", 1, 0.7, 2.0),
)


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
        stocking = threading.Thread(target=_stock, args=(services[0], bulk))
        stocking.start()
        stocking.join()
        before = [device_counts(service) for service in services]
        real.ask_at(moments)
        after = [device_counts(service) for service in services]
        if not bulk:
            alone += [real.ask(number) for number in range(ALONE)]
    figures = _figures(statistics.median(alone))
    world = _simulated(case, figures, moments, bulk)
    simulated = of_lane(world, "interactive")
    rose = [
        (b["busy_seconds"] - a["busy_seconds"], b["pairs"] - a["pairs"], b["clock"] - a["clock"])
        for a, b in zip(before, after, strict=True)
    ]
    passed = statistics.fmean(clock for _, _, clock in rose)
    return {
        "case": case.name,
        "jobs": len(moments),
        "beside_ms": round(1000 * figures.job_seconds, 1),
        "service": {
            **_told(real.took),
            "busy": round(sum(busy for busy, _, _ in rose) / passed / case.devices, 3),
            "pairs_per_second": round(sum(pairs for _, pairs, _ in rose) / passed, 1),
        },
        "simulation": {
            **_told(
                [
                    job.ended_at - job.arrived_at
                    for job in world.jobs
                    if job.ended_at and job.lane == "interactive"
                ]
            ),
            "busy": round(world.busy(), 3),
            "pairs_per_second": round(_pairs(world) / world.now, 1),
        },
        "answered": [len(real.took), simulated["answered"]],
    }


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
    return world


def _pairs(world: World) -> int:
    return sum(job.documents - job.unscored for job in world.jobs if job.taken_at is not None)


def _told(took: Sequence[float]) -> Row:
    ordered = sorted(took)
    at = {share: ordered[min(int(share / 100 * len(ordered)), len(ordered) - 1)] for share in (50, 95)}
    means = {"mean_ms": statistics.fmean(took), **{f"p{share}_ms": value for share, value in at.items()}}
    return {name: round(1000 * value) for name, value in means.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each case")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rows: list[Row] = []
    for case in CASES:
        rows.append(measured(case, options.seconds, options.seed))
        print(
            rows[-1]["case"], *(f"{name} {rows[-1][name]}" for name in rows[-1] if name != "case"), sep="  "
        )
    print(
        json.dumps({"benchmark": "simulation beside the service", "seconds": options.seconds, "found": rows})
    )


if __name__ == "__main__":
    with ends_quietly():
        main()
