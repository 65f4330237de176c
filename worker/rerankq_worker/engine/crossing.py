"""Numbers to the device and back, without waiting for what else it computes. Knows no rows and no model."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

LOOK_SECONDS = 0.0002  # between two looks whether numbers have come


def to_device(numbers: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """The numbers as they will be there; on CUDA the copy is queued behind what was begun before, and nobody waits."""
    on_host = torch.from_numpy(numbers)
    if device.type == "cuda":  # from memory that is not pinned the host waits for the kernels in flight
        on_host = on_host.pin_memory()
    return on_host.to(device, non_blocking=True)


def to_host(numbers: Tensor) -> "Coming":
    """What waits for the numbers to be on the host: for them alone, not for what is begun after this call.

    `numbers.cpu()` in its place would be queued behind the batches begun meanwhile, and wait for them, too.
    """
    if not numbers.is_cuda:
        return Coming(numbers)
    on_host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    on_host.copy_(numbers, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(numbers.device))
    return Coming(on_host, copied)


@dataclass(frozen=True, slots=True, eq=False)
class Coming:
    """Numbers on their way to the host; call it for them."""

    _on_host: Tensor
    _copied: torch.cuda.Event | None = None

    def __call__(self) -> Tensor:
        if self._copied is not None:
            self._copied.synchronize()
        return self._on_host

    def wait(self, seconds: float) -> bool:
        """Whether they are here or never will be, after at most so long."""
        until = time.monotonic() + seconds
        while not self._is_over():
            left_seconds = until - time.monotonic()
            if left_seconds <= 0:
                return False
            time.sleep(min(left_seconds, LOOK_SECONDS))
        return True

    def _is_over(self) -> bool:
        try:
            return self._copied is None or self._copied.query()
        except RuntimeError:  # the device is lost; who calls for the numbers is told
            return True
