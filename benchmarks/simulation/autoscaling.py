"""KEDA and the pod autoscaler behind it, as deploy/kubernetes/scaling.yaml and scaling-by-age set them."""

import math
from collections import deque
from dataclasses import dataclass, field

from benchmarks.simulation.world import World

POLL_SECONDS = 15.0
STABLE_SECONDS = 600.0
"""Scaling down goes no lower than what any look of this time asked for."""
DOWN_SECONDS = 120.0
"""Between one device that goes and the next."""
INTERACTIVE_A_DEVICE, BULK_A_DEVICE = 20, 200
"""Of `listLength`: waiting jobs, waiting packs."""
INTERACTIVE_AGE_SECONDS, BULK_AGE_SECONDS, HELD_A_DEVICE = 5.0, 1800.0, 3


@dataclass(slots=True)
class Autoscaler:
    """Looks every 15 s, adds what is asked for and lets one go at a time."""

    world: World
    least: int
    most: int
    start_seconds: float
    by_age: bool = False
    sizes: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    """When how many there were, starting ones included."""
    _asked: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])
    _down_at: float = 0.0

    def begin(self) -> None:
        """With the least there is."""
        for _ in range(self.least):
            self.world.add_device()
        self._look()

    def _look(self) -> None:
        world = self.world
        wanted = min(max(self._wanted(), self.least), self.most)
        self._asked.append((world.now, wanted))
        while self._asked[0][0] < world.now - STABLE_SECONDS:
            self._asked.popleft()
        staying = [device for device in world.devices if not device.is_leaving]
        for _ in range(wanted - len(staying)):
            world.add_device(self.start_seconds)
        if len(staying) > max(asked for _, asked in self._asked) and world.now >= self._down_at:
            world.drain(staying[-1])
            self._down_at = world.now + DOWN_SECONDS
        self.sizes.append((world.now, len(world.devices)))
        world.at(world.now + POLL_SECONDS, self._look)

    def _wanted(self) -> int:
        world = self.world
        asked = [
            world.waiting("interactive") / INTERACTIVE_A_DEVICE,
            world.waiting("bulk") / BULK_A_DEVICE,
        ]
        if self.by_age:
            asked += [
                world.oldest_seconds("interactive") / INTERACTIVE_AGE_SECONDS,
                world.oldest_seconds("bulk") / BULK_AGE_SECONDS,
                world.held() / HELD_A_DEVICE,
            ]
        return math.ceil(max(asked))
