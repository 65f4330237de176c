"""Which device, which precision, and what each costs. Knows no model.

| dtype | where | what it costs (docs/engine.md has the measurements) |
|-------|-------|------------------------------------------------------|
| fp32  | CPU (the default there), CUDA | nothing: the definition of the score |
| fp16  | CUDA (the default there) | 99.78 % of the fp32 nDCG kept (published); head in fp32 |
| bf16  | CPU | logits move by up to about 0.1 |
| int8  | CPU | logits move by a few tenths: told by benchmarks/precision_cost.py |
"""

from dataclasses import dataclass

import torch

from rerankq_worker.engine.errors import EngineError, PrecisionRefused
from rerankq_worker.engine.linears import can_compute_int8

DTYPES = ("auto", "fp32", "fp16", "bf16", "int8")
BODY_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "int8": torch.float32}


@dataclass(frozen=True, slots=True)
class Precision:
    """What the body computes in; the head and the logits are fp32 always."""

    name: str
    body: torch.dtype
    int8_linears: bool


def choose_device(device: str) -> torch.device:
    """The device that was asked for, or with `auto` the first GPU, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise EngineError(f"expected a device such as auto, cpu, cuda or cuda:1, got {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise EngineError(f"expected a device such as auto, cpu, cuda or cuda:1, got {device!r}")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise EngineError(
            f"no GPU is visible and device {device} was asked for; install a driver, or use cpu"
        )
    return chosen


def choose_precision(dtype: str, device: torch.device) -> Precision:
    """The precision that was asked for, or with `auto` fp16 on CUDA and fp32 on the CPU."""
    if dtype not in DTYPES:
        raise PrecisionRefused(f"expected a dtype of {', '.join(DTYPES)}, got {dtype!r}")
    if dtype == "auto":
        dtype = "fp16" if device.type == "cuda" else "fp32"
    reason = _refusal(dtype, device)
    if reason:
        raise PrecisionRefused(reason)
    return Precision(dtype, BODY_DTYPES[dtype], int8_linears=dtype == "int8")


def _refusal(dtype: str, device: torch.device) -> str | None:
    on_cuda = device.type == "cuda"
    if dtype == "fp16" and not on_cuda:
        return "fp16 on a CPU is several times slower than fp32; use bf16, int8 or fp32"
    if dtype == "bf16" and on_cuda:
        return "bf16 keeps less of this model's quality than fp16 (99.3 % against 99.8 %) at equal speed; use fp16"
    if dtype == "int8" and on_cuda:
        return "int8 is offered on CPUs only; use fp16"
    if dtype == "bf16" and not _cpu_computes("bf16"):
        return "this CPU has no bf16 instructions and would emulate them; use fp32 or int8"
    if dtype == "int8" and not can_compute_int8():
        return "this torch or CPU has no fast, exact int8 product; use fp32 or bf16"
    return None


def _cpu_computes(dtype: str) -> bool:
    """Whether oneDNN says this CPU has the instructions; a torch without the question gets the benefit of doubt."""
    try:
        return bool(getattr(torch.ops.mkldnn, f"_is_mkldnn_{dtype}_supported")())
    except (AttributeError, RuntimeError):
        return True
