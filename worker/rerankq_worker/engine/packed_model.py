"""What every packed model is, and how it takes over the weights of transformers' own. Knows no architecture."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rerankq_worker.engine.attention import Attention, pads, per_row
from rerankq_worker.engine.batch import Batch, lay_out
from rerankq_worker.engine.linears import as_in
from rerankq_worker.engine.precision import Precision
from rerankq_worker.scoring import TokenIds

Norm = Callable[[Tensor], Tensor]


class PackedModel:
    """A model resident on its device: rows in, laid end to end, one fp32 logit per row out."""

    def __init__(
        self, device: torch.device, precision: Precision, attention: Attention, *, windows: bool = False
    ) -> None:
        self.pads = pads(attention, windows)
        """Whether a batch takes the memory of rows that are all as long as its longest."""
        self._device = device
        self._body = precision.body
        self._attention = attention

    @torch.inference_mode()
    def __call__(self, rows: Sequence[TokenIds]) -> Tensor:
        """Logits, fp32, [n]; on CUDA they may not have been computed yet when this returns."""
        return self.score_batch(lay_out(rows, self._device))

    @torch.inference_mode()
    def score_batch(self, batch: Batch) -> Tensor:
        """The same of rows that lie end to end already."""
        return self._forward(batch, self._body, self._attention)

    @torch.inference_mode()
    def exactly(self, device: torch.device, rows: Sequence[TokenIds]) -> Tensor:
        """The same in fp32 arithmetic on the weights as they are held, each widened and moved for its own product only.

        For models whose linears are plain: those on CUDA.
        """
        return self._forward(lay_out(rows, device), torch.float32, per_row)

    def _forward(self, batch: Batch, body: torch.dtype, attention: Attention) -> Tensor:
        raise NotImplementedError


def taken(source: Any) -> Tensor:
    """The weight of a module, which is left without."""
    weight: Tensor = source.weight.data
    source.weight = None
    return weight


def bias_of(source: Any) -> Tensor:
    """The bias of a linear layer; zeros where it has none."""
    return torch.zeros(source.out_features) if source.bias is None else source.bias.data.clone()


def norm_of(source: Any, device: torch.device, body: torch.dtype) -> Norm:
    """A layer's norm, with or without a bias."""
    weight = placed(source.weight, device, body)
    bias = None if source.bias is None else placed(source.bias, device, body)
    eps: float = source.eps
    return lambda hidden: functional.layer_norm(
        hidden, weight.shape, as_in(weight, hidden), None if bias is None else as_in(bias, hidden), eps
    )


def one_label(source: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Weight [1, hidden] and bias [1], in fp32, of a head's last product: of two labels the second less the first."""
    weight, bias = (placed(tensor, device, torch.float32) for tensor in (source.weight, source.bias))
    return (weight, bias) if len(weight) == 1 else (weight[1:] - weight[:1], bias[1:] - bias[:1])


def placed(parameter: Any, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy always: a view of a small tensor would keep the whole checkpoint mapped into memory."""
    copied: Tensor = parameter.data.to(device, dtype, copy=True)
    return copied
