"""Which device, which precision, and what each costs. Knows no model.

| dtype | where | what it costs (docs/engine.md has the measurements) |
|-------|-------|------------------------------------------------------|
| fp32  | CPU (the default there), CUDA | nothing: the definition of the score |
| fp16  | CUDA (the default there) | 99.78 % of the fp32 nDCG kept (published); head in fp32 |
| fp16  | CPU | the rounding of the weights; they take half the memory |
| bf16  | CPU | logits move by about a tenth, nDCG by nothing that was seen |
| int8  | CPU | logits move by a few tenths; 98.6 % of the fp32 nDCG kept on the small model |
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from rerankq_worker.engine.errors import PrecisionRefused
from rerankq_worker.engine.linears import can_compute_int8
from rerankq_worker.scoring import EngineError

DTYPES = ("auto", "fp32", "fp16", "bf16", "int8")
PROBE_SHAPE = (256, 1024, 1024)
"""Rows, inputs and outputs of the product that tells whether bf16 pays: some milliseconds."""
PROBES = 5
BF16_GAIN = 1.2  # below it fp32 arithmetic is as fast, and nearer to the definition of the score


@dataclass(frozen=True, slots=True)
class Precision:
    """What is held and computed in what; the head and the logits are fp32 always."""

    name: str
    embeddings: torch.dtype
    """What the words' vectors are held in."""
    weights: torch.dtype
    """What the weights of the linear layers are held in."""
    body: torch.dtype
    """What everything between the two and the head is computed in, but for int8's products."""


EXACT = Precision("fp32", torch.float32, torch.float32, torch.float32)


def choose_device(device: str) -> torch.device:
    """The device that was asked for, or with `auto` the first GPU, else the CPU."""
    if device == "auto" and not torch.cuda.is_available():
        asked = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        if asked.startswith(("GPU-", "MIG-")):
            raise EngineError(f"CUDA sees no device CUDA_VISIBLE_DEVICES={asked}; correct it, or use cpu")
        return torch.device("cpu")
    if device == "auto":
        return torch.device("cuda")
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
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise EngineError(f"expected a GPU below cuda:{torch.cuda.device_count()}, got {device}")
    return chosen


def choose_precision(dtype: str, device: torch.device) -> Precision:
    """The precision that was asked for, or with `auto` fp16 on CUDA and fp32 on the CPU.

    Half precision on a CPU is computed in fp32 on weights held in half, except where bf16 products are faster.
    """
    if dtype not in DTYPES:
        raise PrecisionRefused(f"expected a dtype of {', '.join(DTYPES)}, got {dtype!r}")
    on_cuda = device.type == "cuda"
    if dtype == "auto":
        dtype = "fp16" if on_cuda else "fp32"
    reason = _refusal(dtype, on_cuda)
    if reason:
        raise PrecisionRefused(reason)
    if dtype == "fp32":
        return EXACT
    if dtype == "int8":
        return Precision(dtype, torch.float16, torch.int8, torch.float32)
    half = torch.float16 if dtype == "fp16" else torch.bfloat16
    computes_in_half = on_cuda or (dtype == "bf16" and bf16_pays())
    return Precision(dtype, half, half, half if computes_in_half else torch.float32)


def _refusal(dtype: str, on_cuda: bool) -> str | None:
    if dtype == "bf16" and on_cuda:
        return "bf16 keeps less of this model's quality than fp16 (99.3 % against 99.8 %) at equal speed; use fp16"
    if dtype == "int8" and on_cuda:
        return "int8 is offered on CPUs only; use fp16"
    if dtype == "int8" and not can_compute_int8():
        return "this torch or CPU has no fast, exact int8 product; use fp32 or bf16"
    return None


@cache
def bf16_pays() -> bool:
    """Whether this CPU multiplies bf16 clearly faster than fp32: with AMX and on Zen 4 it is two times and more.

    Timed, since no flag tells: an Intel with `avx512_bf16` and no AMX has the instructions and is half as fast.
    """
    return _has_bf16_instructions() and seconds_of_product(torch.float32) > BF16_GAIN * seconds_of_product(
        torch.bfloat16
    )


def _has_bf16_instructions() -> bool:
    """What oneDNN says; a torch without the question gets the benefit of doubt."""
    supported: Callable[[], bool] = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    return supported()


def seconds_of_product(dtype: torch.dtype) -> float:
    """The shortest of a few products of a typical size."""
    rows, inputs, outputs = PROBE_SHAPE
    x, weight = torch.ones(rows, inputs, dtype=dtype), torch.ones(outputs, inputs, dtype=dtype)
    return min(_seconds(lambda: torch.nn.functional.linear(x, weight)) for _ in range(PROBES))


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start
