"""How many devices a load needs: arithmetic on measured figures, and a queue. Knows no device, starts nothing."""

import heapq
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

ARRIVALS = 20_000
WARM_UP = ARRIVALS // 10
SEED = 1
TAIL = 0.99
"""The share of jobs that is to be answered in time."""
MOST_BUSY = 0.9
"""Beyond it the wait is a matter of luck: a busy minute then takes many quiet ones to be made up for."""
STEP = 1.02  # of a large fleet, how much is added at a time: to count by one would take minutes


@dataclass(frozen=True, slots=True)
class Fleet:
    """Devices, and how they would do."""

    devices: int
    busy: float
    """The share of their time that they compute, or that their workers have a job each, whichever is more."""
    p50_seconds: float
    p99_seconds: float


def fleet_for(
    rate: float,
    service_seconds: float,
    overhead_seconds: float,
    within_seconds: float,
    workers: int = 2,
    spread_seconds: float = 0.0,
) -> Fleet | None:
    """The smallest fleet that answers 99 of 100 jobs in time; None where a device alone, with one job, is too slow.

    Args:
        rate: jobs a second, coming independently of each other.
        service_seconds: what a device computes for one job when it has many to do.
        overhead_seconds: what else an answer takes, of the worker that has the job.
        workers: that take such jobs, a device.
        spread_seconds: by how much the slowest in a hundred are later without a queue.
    """
    if service_seconds + overhead_seconds + spread_seconds > within_seconds:
        return None
    work = _work(service_seconds, overhead_seconds, workers)
    devices = max(1, math.ceil(rate * work / MOST_BUSY))
    while (
        fleet := fleet_of(devices, rate, service_seconds, overhead_seconds, workers, spread_seconds)
    ).p99_seconds > within_seconds:
        devices = max(devices + 1, int(devices * STEP))
    return fleet


def fleet_of(
    devices: int,
    rate: float,
    service_seconds: float,
    overhead_seconds: float,
    workers: int = 2,
    spread_seconds: float = 0.0,
) -> Fleet:
    """How so many devices would do."""
    took = sorted(sojourns(devices, rate, service_seconds, workers, overhead_seconds))
    return Fleet(
        devices,
        rate * _work(service_seconds, overhead_seconds, workers) / devices,
        took[len(took) // 2],
        took[int(TAIL * len(took))] + spread_seconds,
    )


def _work(service_seconds: float, overhead_seconds: float, workers: int) -> float:
    """What a job takes of a device: of its time to compute, or of its workers', which have one job at a time.

    Small jobs leave a device idle: it computes packs of bulk work as one, but no more of these than it has workers.
    """
    return max(service_seconds, (service_seconds + overhead_seconds) / workers)


def sojourns(
    devices: int, rate: float, service_seconds: float, workers: int, overhead_seconds: float = 0.0
) -> Iterator[float]:
    """How long each job waits and is computed, in a seeded simulation.

    The service as it is: jobs wait in one list; whichever worker has been idle for longest takes the first, and no
    other before it has answered; the device beside it computes the jobs of its workers in the order of their coming.
    """
    chance = random.Random(SEED)  # noqa: S311 - not for secrets
    idle_since = [(0.0, worker) for worker in range(devices * workers)]
    free_at = [0.0] * devices
    now = 0.0
    for number in range(ARRIVALS):
        now += chance.expovariate(rate)
        since, worker = heapq.heappop(idle_since)
        device = worker % devices
        ready_at = max(now, since) + overhead_seconds
        free_at[device] = done_at = max(ready_at, free_at[device]) + service_seconds
        heapq.heappush(idle_since, (done_at, worker))
        if number >= WARM_UP:
            yield done_at - now
