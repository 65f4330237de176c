"""Numbers to the device and back, without waiting for what else it computes. Knows no rows and no model."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_device(numbers: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """The numbers as they will be there; on CUDA the copy is queued behind what was begun before, and nobody waits."""
    on_host = torch.from_numpy(numbers)
    if device.type == "cuda":  # from memory that is not pinned the host waits for the kernels in flight
        on_host = on_host.pin_memory()
    return on_host.to(device, non_blocking=True)


def to_host(numbers: Tensor) -> Callable[[], Tensor]:
    """What waits for the numbers to be on the host: for them alone, not for what is begun after this call.

    `numbers.cpu()` in its place would be queued behind the batches begun meanwhile, and wait for them, too.
    """
    if not numbers.is_cuda:
        return lambda: numbers
    on_host = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
    on_host.copy_(numbers, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(numbers.device))

    def wait() -> Tensor:
        copied.synchronize()
        return on_host

    return wait
