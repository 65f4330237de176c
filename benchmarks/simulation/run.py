"""One run of the simulation, from what was asked to what callers had."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.simulation import load
from benchmarks.simulation.autoscaling import Autoscaler
from benchmarks.simulation.figures import Figures
from benchmarks.simulation.world import LANES, Job, Lane, World

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is simulated; times in seconds."""

    figures: Figures
    devices: int = 1
    most_devices: int | None = None
    """With it, `devices` is the least that an autoscaler leaves."""
    by_age: bool = False
    start_seconds: float = 120.0
    rate: float = 0.0
    documents: int = 50
    bulk_rate: float = 0.0
    bulk_documents: int = 50
    bulk_jobs: int = 0
    """There at the beginning."""
    seconds: float = 600.0
    warm_up_seconds: float = 0.0
    engine_every_seconds: float = 0.0
    """One engine's mean time to its death; 0: never."""
    host_every_seconds: float = 0.0
    back_after_seconds: float = 60.0
    seed: int = 1


def simulate(asked: Scenario) -> tuple[World, Row]:
    """The world at the end, and its report."""
    world = World(asked.figures)
    world.arrive(load.backlog(asked.bulk_jobs, asked.bulk_documents))
    world.arrive(load.poisson(asked.seed, "interactive", asked.rate, asked.documents, asked.seconds))
    world.arrive(load.poisson(asked.seed, "bulk", asked.bulk_rate, asked.bulk_documents, asked.seconds))
    scaler = None
    if asked.most_devices is None:
        for _ in range(asked.devices):
            world.add_device()
    else:
        scaler = Autoscaler(world, asked.devices, asked.most_devices, asked.start_seconds, asked.by_age)
        scaler.begin()
    load.fail(
        world,
        asked.seed,
        engine_every_seconds=asked.engine_every_seconds,
        host_every_seconds=asked.host_every_seconds,
        back_after_seconds=asked.back_after_seconds,
    )
    world.run_until(asked.seconds)
    return world, report(world, asked.warm_up_seconds, scaler)


def report(world: World, warm_up_seconds: float = 0.0, scaler: Autoscaler | None = None) -> Row:
    """What callers had, and how busy the devices were."""
    told: Row = {lane: of_lane(world, lane, warm_up_seconds) for lane in LANES}
    told["devices_busy"] = world.busy()
    told["jobs_inside"] = world.job_seconds / world.now
    if scaler is not None:
        told["devices"] = {"most": max(size for _, size in scaler.sizes), "at_the_end": scaler.sizes[-1][1]}
    return told


def of_lane(world: World, lane: Lane, warm_up_seconds: float = 0.0) -> Row:
    """Of its jobs that came after the warm-up."""
    jobs = [job for job in world.jobs if job.lane == lane and job.arrived_at >= warm_up_seconds]
    answered = [job for job in jobs if job.ended_at is not None and not job.is_dead]
    took = sorted((job.ended_at or 0.0) - job.arrived_at for job in answered)
    return {
        "came": len(jobs),
        "answered": len(answered),
        "dead": sum(job.is_dead for job in jobs),
        "delivered_again": sum(max(job.deliveries - 1, 0) for job in jobs),
        "inside": sum(job.ended_at is None for job in jobs),
        "pairs_per_second": _rate(answered),
        **{f"p{share}_seconds": _percentile(took, share / 100) for share in (50, 95, 99)},
    }


def _rate(answered: Sequence[Job]) -> float | None:
    ends = sorted(job.ended_at or 0.0 for job in answered)
    passed = ends[-1] - min(job.arrived_at for job in answered) if ends else 0.0
    return sum(job.documents for job in answered) / passed if passed else None


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else None
