"""What comes, what fails and when: chance, from one seed."""

import random
from collections.abc import Callable, Iterator

from benchmarks.simulation.world import Device, Job, Lane, World


def poisson(seed: int, lane: Lane, rate: float, documents: int, seconds: float) -> Iterator[Job]:
    """Jobs that come independently of each other, `rate` a second."""
    chance = random.Random(f"{seed} {lane}")
    at = chance.expovariate(rate) if rate else seconds
    while at < seconds:
        yield Job(lane, documents, at)
        at += chance.expovariate(rate)


def backlog(jobs: int, documents: int) -> Iterator[Job]:
    """Bulk jobs that are all there at the beginning."""
    return (Job("bulk", documents, 0.0) for _ in range(jobs))


def fail(
    world: World,
    seed: int,
    *,
    engine_every_seconds: float,
    host_every_seconds: float,
    back_after_seconds: float,
) -> None:
    """Deaths of each device that there is by then, of its engine and of its host, independently of each other."""
    chance = random.Random(f"{seed} deaths")

    def again(every_seconds: float, lose: Callable[[Device, float], None]) -> None:
        if every_seconds <= 0:
            return

        def strike() -> None:
            there = [device for device in world.devices if device.workers]
            if there:
                lose(chance.choice(there), back_after_seconds)
            world.at(world.now + chance.expovariate(max(len(there), 1) / every_seconds), strike)

        world.at(world.now + chance.expovariate(max(len(world.devices), 1) / every_seconds), strike)

    again(engine_every_seconds, world.lose_engine)
    again(host_every_seconds, world.lose_host)
