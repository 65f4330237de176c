"""How long a step takes on a device that works while the host goes on."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Step = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    device: torch.device
    repeats: int
    warm: int

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def one_by_one(self, step: Step) -> tuple[float, float]:
        """Median milliseconds from the call to the numbers being there, and of the call itself: the launching."""
        self._warm_up(step)
        total: list[float] = []
        launch: list[float] = []
        for _ in range(self.repeats):
            began = time.perf_counter()
            step()
            launch.append(time.perf_counter() - began)
            self.synchronize()
            total.append(time.perf_counter() - began)
        return round(statistics.median(total) * 1e3, 3), round(statistics.median(launch) * 1e3, 3)

    def queued(self, step: Step) -> float:
        """Milliseconds a step when nobody waits between them: the device's time, or the host's if that is longer."""
        self._warm_up(step)
        began = time.perf_counter()
        for _ in range(self.repeats):
            step()
        self.synchronize()
        return round((time.perf_counter() - began) / self.repeats * 1e3, 4)

    def _warm_up(self, step: Step) -> None:
        for _ in range(self.warm):
            step()
        self.synchronize()
