"""The kinds of linear layer: plain, prepacked, widened, int8 as it comes or calibrated.

Each is a function of [T, in] to [T, out].

Which one is taken is decided once, when a model is built; knows no model.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

Linear = Callable[[Tensor], Tensor]
MakeLinear = Callable[[Tensor, Tensor, bool], Linear]
"""weight [out, in] and bias [out], both in fp32 on the CPU; whether the exact GELU follows."""

ZERO_POINT = 128  # int8 activations are unsigned numbers around it
SMALLEST = 1e-12  # keeps a row of zeros from dividing by zero
CACHED_ELEMENTS = 1 << 17  # of fp32, and what is made of them: about 1 MB
TYPICAL_TOKENS = 2048  # oneDNN chooses the blocked weight layout for about this many rows


def choose_linear(device: torch.device, weights: torch.dtype, body: torch.dtype) -> MakeLinear:
    """Int8 and widened where weights are held in less than the body computes in; else prepacked on a CPU whose torch
    has the operation, plain anywhere else.
    """
    if weights is torch.int8:
        return int8_linear
    if weights is not body:
        return WidenedLinears(weights)
    make = prepacked_linear if device.type == "cpu" and can_prepack() else plain_linear
    return lambda weight, bias, gelu: make(weight.to(device, body), bias.to(device, body), gelu)


def plain_linear(weight: Tensor, bias: Tensor, gelu: bool) -> Linear:
    """torch's own, computed where and in what its input is."""
    if gelu:
        return lambda x: functional.gelu(functional.linear(x, as_in(weight, x), as_in(bias, x)))
    return lambda x: functional.linear(x, as_in(weight, x), as_in(bias, x))


def as_in(held: Tensor, x: Tensor) -> Tensor:
    """`held` in the precision and on the device of `x`; itself where it is."""
    if held.dtype is x.dtype and held.is_cuda is x.is_cuda:  # asked a hundred times a pass: `to` is slower
        return held
    return held.to(x)


def prepacked_linear(weight: Tensor, bias: Tensor, gelu: bool) -> Linear:
    """Weights laid out for oneDNN once, GELU fused into the product: 1.1 to 1.2 times the plain one."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), TYPICAL_TOKENS)
    activation, algorithm = ("gelu", "none") if gelu else ("none", "")
    product = torch.ops.mkldnn._linear_pointwise
    return lambda x: product(x, packed, bias, activation, [], algorithm)


@cache
def can_prepack() -> bool:
    """Whether this torch has the private operation and it computes what the plain one does."""
    probe = torch.linspace(-1, 1, 64).view(4, 16)
    weight, bias = torch.linspace(-1, 1, 128).view(8, 16), torch.ones(8)
    try:
        got = prepacked_linear(weight, bias, True)(probe)
    except (
        AttributeError,
        RuntimeError,
        TypeError,
    ):  # absent, or changed: it is not torch's public interface
        return False
    return torch.allclose(got, plain_linear(weight, bias, True)(probe), atol=1e-5)


class WidenedLinears:
    """Weights held in half precision, widened to fp32 for each product: half the memory, fp32 arithmetic.

    All of a model's products widen into one buffer, as large as the largest weight. Widening costs a few per cent of
    a batch of 1,024 tokens.
    """

    def __init__(self, held_in: torch.dtype) -> None:
        self._held_in = held_in
        self._wide = torch.empty(0)

    def __call__(self, weight: Tensor, bias: Tensor, gelu: bool) -> Linear:
        held = weight.to(self._held_in)
        if held.numel() > self._wide.numel():
            self._wide = torch.empty(held.numel())

        def product(x: Tensor) -> Tensor:
            wide = self._wide[: held.numel()].view(held.shape).copy_(held)
            y = functional.linear(x, wide, bias)
            return torch.ops.aten.gelu_(y) if gelu else y

        return product


def int8_linear(weight: Tensor, bias: Tensor, gelu: bool) -> Linear:
    """Weights in int8 per output; activations in 8 bits, scaled per token as they come; sums in int32.

    Per token, because one scale for a whole batch doubles the error and ties a pair's score to its neighbours.
    """
    multiply = _int8_product(weight, 1.0, ZERO_POINT)

    def product(x: Tensor) -> Tensor:
        activations, scale = torch.empty(x.shape, dtype=torch.uint8), torch.empty(len(x), 1)
        for part, into, part_scale in _in_cache(x, activations, scale):
            buffer = part.abs()
            torch.amax(buffer, dim=-1, keepdim=True, out=part_scale)
            part_scale.clamp_min_(SMALLEST).div_(127)
            into.copy_(as_uint8(torch.mul(part, part_scale.reciprocal(), out=buffer), 1.0, ZERO_POINT))
        y = multiply(activations)
        for part, part_scale in _in_cache(y, scale):
            torch.addcmul(bias, part, part_scale, out=part)
            if gelu:
                torch.ops.aten.gelu_(part)
        return y

    return product


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a layer's inputs become numbers of 8 bits, whatever they are: x / (divisor * step) + zero_point."""

    step: float
    zero_point: int
    divisor: Tensor | None
    """[in]: what each channel is divided by first, and its weights are multiplied with."""

    @classmethod
    def of(cls, found: Mapping[str, Tensor]) -> "Scaling":
        """As calibration found it: `range` [2] and perhaps `divisor` [in]."""
        low, high = min(0.0, float(found["range"][0])), max(0.0, float(found["range"][1]))
        step = max(high - low, SMALLEST) / 255
        return cls(step, round(-low / step), found.get("divisor"))


def scaled_int8_linear(
    weight: Tensor, bias: Tensor, gelu: bool, scaling: Scaling, after: Scaling | None = None
) -> Linear:
    """Weights in int8 per output, inputs scaled as calibrated; bias and GELU in the product.

    Args:
        after: of the layer that takes what this one gives, which then is in 8 bits already.
    """
    weight = weight if scaling.divisor is None else weight * scaling.divisor
    step, zero_point = scaling.step, scaling.zero_point
    reciprocal = None if scaling.divisor is None else 1 / scaling.divisor
    multiply = _int8_product(weight, step, zero_point, bias, gelu, after)

    def product(x: Tensor) -> Tensor:
        if x.dtype is not torch.uint8:
            x = as_uint8(x if reciprocal is None else x * reciprocal, step, zero_point)
        return multiply(x)

    return product


def _int8_product(
    weight: Tensor,
    step: float,
    zero_point: int,
    bias: Tensor | None = None,
    gelu: bool = False,
    after: Scaling | None = None,
) -> Linear:
    """oneDNN's, of inputs in 8 bits; what it gives is fp32, or in 8 bits as scaled for what comes after."""
    weight_scale = weight.abs().amax(dim=1).clamp_min(SMALLEST) / 127
    quantized = (weight / weight_scale[:, None]).round_().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(quantized, None)
    multiply, zeros = torch.ops.onednn.qlinear_pointwise, torch.zeros(len(weight), dtype=torch.int64)
    activation = ("gelu", [], "none") if gelu else ("none", [], "")
    into = (1.0, 0, torch.float32) if after is None else (after.step, after.zero_point, torch.uint8)
    return lambda x: multiply(x, step, zero_point, packed, weight_scale, zeros, bias, *into, *activation)


def as_uint8(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """x / scale + zero_point, rounded, and cut to 0 .. 255; in one pass where this torch has it."""
    if not _can_quantize():
        shifted = (x / scale).add_(zero_point + 0.5)  # the half rounds: the cast cuts
        return shifted.clamp_(0, 255).to(torch.uint8)
    quantized = torch.quantize_per_tensor(x, scale, zero_point, torch.quint8)
    return torch.empty(0, dtype=torch.uint8).set_(
        quantized.untyped_storage(), 0, quantized.shape, quantized.stride()
    )


@cache
def _can_quantize() -> bool:
    """Whether this torch has the quantized tensors that it has announced to drop. It warns of that once: here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(torch.quantize_per_tensor(torch.ones(2), 0.5, 1, torch.quint8).int_repr()[0] == 3)
        except (AttributeError, RuntimeError, TypeError):
            return False


def _in_cache(first: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each tensor, as many at a time as stay in a core's cache while they are worked on."""
    rows = max(1, CACHED_ELEMENTS // first.shape[1])
    return zip(*(tensor.split(rows) for tensor in (first, *others)), strict=True)


@cache
def can_compute_int8() -> bool:
    """Whether this torch has the private operation and the CPU sums int8 products without overflow.

    Without VNNI instructions pairs of products saturate at 16 bits, which only large numbers show.
    """
    probe, weight = torch.ones(4, 64), torch.ones(8, 64)
    try:
        got = int8_linear(weight, torch.zeros(8), gelu=False)(probe)
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(got, torch.full((4, 8), 64.0), atol=1e-2)
