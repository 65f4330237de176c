"""x + residual and its layer norm in one kernel, in Triton: a file of its own, since Triton reads the source.

Two kernels and two reads of x less for each of a layer's norms. Needs the package `triton`, which torch's builds with
CUDA bring.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def add_norm_kernel(X, R, W, B, Y, eps, N: tl.constexpr, BLOCK: tl.constexpr):  # noqa: N803 - Triton's way
    """Y = layer_norm(X + R) * W + B, one program a row, sums in fp32."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    live = columns < N
    x = tl.load(X + row * N + columns, mask=live, other=0.0).to(tl.float32)
    x += tl.load(R + row * N + columns, mask=live, other=0.0).to(tl.float32)
    mean = tl.sum(x, axis=0) / N
    distance = tl.where(live, x - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(distance * distance, axis=0) / N + eps)
    weight = tl.load(W + columns, mask=live, other=0.0).to(tl.float32)
    bias = tl.load(B + columns, mask=live, other=0.0).to(tl.float32)
    tl.store(Y + row * N + columns, distance * scale * weight + bias, mask=live)


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """[T, hidden], in the precision of `x`, both laid out in rows."""
    out, width = torch.empty_like(x), x.shape[1]
    kernel: Any = add_norm_kernel
    kernel[(len(x),)](
        x, residual, weight, bias, out, eps, N=width, BLOCK=triton.next_power_of_2(width), num_warps=4
    )
    return out
