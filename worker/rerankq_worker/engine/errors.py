"""What goes wrong on a device, and how to tell it from torch's exceptions.

EngineError            in `scoring`, with EngineBroken
├── PrecisionRefused   the device cannot or should not compute in what was asked for
└── EngineDrifted      the scores are not those the model is known for
"""

import torch

from rerankq_worker.scoring import EngineError

LOST = (
    "CUDA error",
    "CUDA driver error",
    "CUBLAS_STATUS",
    "CUDNN_STATUS",
    "cuDNN error",
    "NVML",
    "device lost",
)
NO_KERNELS = "no kernel image is available"
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
ACCELERATOR_ERROR: type[Exception] | None = getattr(torch, "AcceleratorError", None)  # torch >= 2.8


class PrecisionRefused(EngineError):
    """This precision is not offered on this device."""


class EngineDrifted(EngineError):
    """Known pairs do not get their known scores: wrong weights, or a precision or a build that breaks them."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may succeed where this one failed."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in OUT_OF_MEMORY)


def lacks_kernels(error: BaseException) -> bool:
    """Whether this torch was built for other cards than the one that is there: another start changes nothing."""
    return isinstance(error, RuntimeError) and NO_KERNELS in str(error)


def is_device_lost(error: BaseException) -> bool:
    """Whether no later call on this device can succeed either."""
    if is_out_of_memory(error):
        return False
    if ACCELERATOR_ERROR is not None and isinstance(error, ACCELERATOR_ERROR):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST)


def first_line(error: BaseException) -> str:
    """CUDA's messages go on for ten lines of advice."""
    return str(error).strip().split("\n")[0]
