"""Numbers to the device and back, without waiting for what else it computes. Knows no rows and no model."""

import ctypes
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rerankq_worker.engine.errors import is_device_lost

LOOK_SECONDS = 0.0002  # between two looks whether numbers have come


def to_device(numbers: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """The numbers as they will be there; on CUDA the copy is queued behind what was begun before, and nobody waits."""
    on_host = torch.from_numpy(numbers)
    if device.type != "cuda":
        return on_host.to(device)
    # from memory that is not pinned the host waits for the kernels in flight
    with _left_behind_if_lost(on_host.pin_memory()) as pinned:
        return pinned.to(device, non_blocking=True)


def to_host(numbers: Tensor) -> "Coming":
    """What waits for the numbers to be on the host: for them alone, not for what is begun after this call.

    `numbers.cpu()` in its place would be queued behind the batches begun meanwhile, and wait for them, too.
    """
    if not numbers.is_cuda:
        return Coming(numbers)
    with _left_behind_if_lost(torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)) as on_host:
        on_host.copy_(numbers, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(numbers.device))
        return Coming(on_host, copied)


def leave_behind(thing: object) -> None:
    """Never give it back, not even where Python ends: torch (2.11) would abort the process before it could tell.

    Pinned memory is such a thing once the device is lost, and what a graph that could not be recorded has begun.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


@contextmanager
def _left_behind_if_lost(pinned: Tensor) -> Generator[Tensor]:
    try:
        yield pinned
    except RuntimeError as error:
        if is_device_lost(error):
            leave_behind(pinned)
        raise


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

    def __del__(self) -> None:
        with suppress(RuntimeError), _left_behind_if_lost(self._on_host):
            if self._copied is not None:
                self._copied.query()

    def _is_over(self) -> bool:
        try:
            return self._copied is None or self._copied.query()
        except RuntimeError:  # the device is lost; who calls for the numbers is told
            return True
