"""How a model's int8 products scale their activations, found on some pairs beforehand and kept beside the weights.

Knows linear layers by their number, in the order in which a model makes them; no architecture, no text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rerankq_worker.engine.linears import Linear, Scaling, int8_linear, plain_linear, scaled_int8_linear
from rerankq_worker.model.calibrated import weights_of
from rerankq_worker.model.errors import ModelBroken
from rerankq_worker.model.files import CALIBRATION

SAMPLED_ROWS = 2048  # of a layer, over all batches; each batch's widest row is kept beside them
CUTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of the range that was seen: rare extremes cut off leave finer steps for the rest."""
SMOOTHINGS = (None, 0.5, 0.75)
"""How much of the spread of the inputs' channels is moved into the weights (SmoothQuant's alpha)."""
TOLERATED = 2.0
"""By how much the squared error may exceed that of scaling each token as it comes, which then is done instead."""
SMALLEST = 1e-6


@dataclass(slots=True)
class _Seen:
    """A linear layer and what was fed to it."""

    weight: Tensor
    bias: Tensor
    follows_gelu: bool
    lows: Tensor
    """[in]: the least that each channel was."""
    highs: Tensor
    rows: list[Tensor] = field(default_factory=list[Tensor])


class Recorder:
    """Makes plain linear layers that remember what they are fed, as long as `records`."""

    def __init__(self, batches: int) -> None:
        """
        Args:
            batches: how many are to be recorded.
        """
        self.records = True
        self._rows_a_batch = -(-SAMPLED_ROWS // batches)
        self._seen: list[_Seen] = []
        self._gelu = False

    def __call__(self, weight: Tensor, bias: Tensor, gelu: bool) -> Linear:
        channels = torch.zeros(weight.shape[1])
        seen = _Seen(weight, bias, self._gelu, channels, channels.clone())
        self._gelu = gelu
        self._seen.append(seen)
        linear = plain_linear(weight, bias, gelu)

        def product(x: Tensor) -> Tensor:
            if self.records:
                _remember(seen, x, self._rows_a_batch)
            return linear(x)

        return product

    @torch.inference_mode()
    def found(self) -> dict[str, Tensor]:
        """What `CalibratedLinears` takes."""
        tensors: dict[str, Tensor] = {}
        for number, seen in enumerate(self._seen):
            for name, tensor in _found(seen).items():
                tensors[f"{number}.{name}"] = tensor.contiguous()
        return tensors


def _remember(seen: _Seen, x: Tensor, rows: int) -> None:
    seen.lows, seen.highs = torch.minimum(seen.lows, x.amin(0)), torch.maximum(seen.highs, x.amax(0))
    widest = x.abs().amax(1).argmax().reshape(1)
    spread = torch.linspace(0, len(x) - 1, min(len(x), rows)).long()
    seen.rows.append(x[torch.cat([widest, spread])])


def _found(seen: _Seen) -> dict[str, Tensor]:
    """The way with the least error on the rows that were kept; and by how much outputs are off on average."""
    x = torch.cat(seen.rows)
    expected = plain_linear(seen.weight, seen.bias, False)(x)
    as_it_comes = int8_linear(seen.weight, seen.bias, False)(x)
    ways = [(_error(as_it_comes, expected) * TOLERATED, as_it_comes, dict[str, Tensor]())]
    for smoothing in SMOOTHINGS[:1] if seen.follows_gelu else SMOOTHINGS:
        for cut in CUTS:
            found = _scaling(seen, smoothing, cut)
            got = scaled_int8_linear(seen.weight, seen.bias, False, Scaling.of(found))(x)
            ways.append((_error(got, expected), got, found))
    _, got, found = min(ways, key=lambda way: way[0])
    return {**found, "shift": (expected - got).mean(0)}


def _error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).square().mean())


def _scaling(seen: _Seen, smoothing: float | None, cut: float) -> dict[str, Tensor]:
    lows, highs, found = seen.lows, seen.highs, dict[str, Tensor]()
    if smoothing is not None:
        inputs = torch.maximum(-lows, highs).clamp_min(SMALLEST) ** smoothing
        weights = seen.weight.abs().amax(0).clamp_min(SMALLEST) ** (1 - smoothing)
        found["divisor"] = divisor = inputs / weights
        lows, highs = lows / divisor, highs / divisor
    found["range"] = torch.stack([lows.min(), highs.max()]) * cut
    return found


class CalibratedLinears:
    """Int8 layers of a model that was calibrated, each scaled as was found for it.

    Raises:
        ModelBroken: it was calibrated for another model, or is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / CALIBRATION
        try:
            with safe_open(self._file, "pt") as kept:
                self._found: dict[str, Tensor] = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 - no mapping
                made_for: str = (kept.metadata() or {}).get("weights", "")
        except SafetensorError as error:
            raise self._not_used("cannot be read") from error
        self._made = 0
        if made_for != weights_of(directory):
            raise self._not_used("was made for other weights than lie beside it")
        for name, tensor in self._found.items():
            if not _is_sound(name, tensor):
                raise self._not_used(f"holds no {name} that a product could use")

    def __call__(self, weight: Tensor, bias: Tensor, gelu: bool) -> Linear:
        found, following = self._of(self._made), self._of(self._made + 1)
        outputs, inputs = weight.shape
        if len(found.get("shift", ())) != outputs or len(found.get("divisor", weight[0])) != inputs:
            raise self._not_used(f"does not fit layer {self._made}")
        self._made += 1
        bias = bias + found["shift"]
        if "range" not in found:
            return int8_linear(weight, bias, gelu)
        is_fed = gelu and "range" in following and "divisor" not in following
        after = Scaling.of(following) if is_fed else None
        return scaled_int8_linear(weight, bias, gelu, Scaling.of(found), after)

    def _not_used(self, reason: str) -> ModelBroken:
        return ModelBroken(f"{self._file} {reason}; delete it, or run `rerankq model quantize` again")

    def _of(self, number: int) -> Mapping[str, Tensor]:
        prefix = f"{number}."
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self._found.items()
            if name.startswith(prefix)
        }


def _is_sound(name: str, tensor: Tensor) -> bool:
    """Whether a product can compute with it; whether it is as long as the layer is wide is asked later."""
    if tensor.dtype is not torch.float32 or tensor.dim() != 1 or not tensor.isfinite().all():
        return False
    if name.endswith(".range"):
        return len(tensor) == 2 and min(0.0, float(tensor[0])) < max(0.0, float(tensor[1]))
    return not name.endswith(".divisor") or bool((tensor > 0).all())


def save(directory: Path, found: Mapping[str, Tensor], told: Mapping[str, str]) -> None:
    """Put what was found beside the weights of `directory`, with what is to be told of it.

    Raises:
        OSError
    """
    try:
        save_file(dict(found), directory / CALIBRATION, {**told, "weights": weights_of(directory)})
    except SafetensorError as error:  # so it says that the disk is full
        raise OSError(" ".join(str(error).split())) from error


def layers(found: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many have a scale of their own, and how many there are."""
    names: Sequence[str] = list(found)
    return sum(name.endswith(".range") for name in names), sum(name.endswith(".shift") for name in names)
