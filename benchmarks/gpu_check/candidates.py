"""XLM-RoBERTa's forward pass with each idea that a card might like switchable. Not the engine's: the plain path is.

Ideas: flash attention called directly, without what torch's `varlen_attn` does around it; residual and norm in one
kernel; GELU in its product, in the tanh form.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from rerankq_worker.engine.batch import Batch, lay_out
from rerankq_worker.model.family import XLM_ROBERTA
from rerankq_worker.scoring import TokenIds

AddNorm = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""x, residual, weight, bias, eps: the norm of the sum; x itself may be overwritten."""


def flash(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int) -> Tensor:
    """flash attention's kernel without `varlen_attn`'s fills and checks."""
    forward: Any = torch.ops.aten._flash_attention_forward
    return forward(q, k, v, cu_q, cu_k, max_q, max_k, 0.0, False, False)[0]


def flash_on_cpu(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int
) -> Tensor:
    """What it promises, row by row, so that the checks themselves can be tried without a card."""
    del max_q, max_k
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    for a, b, c, d in zip(cu_q, cu_q[1:], cu_k, cu_k[1:], strict=False):
        if b > a and d > c:
            heads_first = (x.transpose(0, 1) for x in (q[a:b], k[c:d], v[c:d]))
            out[a:b] = functional.scaled_dot_product_attention(*heads_first).transpose(0, 1)
    return out


def flash_of(device: torch.device) -> Callable[..., Tensor]:
    return flash if device.type == "cuda" else flash_on_cpu


def eager_add_norm(x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return functional.layer_norm(x.add_(residual), weight.shape, weight, bias, eps)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weight and bias of each product and norm."""

    projections: tuple[Tensor, Tensor]
    after_attention: tuple[Tensor, Tensor]
    attention_norm: tuple[Tensor, Tensor]
    grow: tuple[Tensor, Tensor]
    shrink: tuple[Tensor, Tensor]
    output_norm: tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class _Weights:
    words: Tensor
    places: Tensor
    embeddings_norm: tuple[Tensor, Tensor]
    layers: list[_Layer]
    head: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Rows in, one fp32 logit per row out: the engine's arithmetic, or nearly."""

    weights: _Weights
    heads: int
    eps: float
    attention: Callable[..., Tensor]
    add_norm: AddNorm = eager_add_norm
    tanh_gelu: bool = False

    @classmethod
    def of(cls, source: Any, device: torch.device, body: torch.dtype) -> "Candidate":
        """Copies what it needs of transformers' own model."""
        config = source.config
        return cls(
            weights=_weights_of(source, device, body),
            heads=config.num_attention_heads,
            eps=config.layer_norm_eps,
            attention=flash_of(device),
        )

    def having(self, **changes: Any) -> "Candidate":
        return replace(self, **changes)

    def __call__(self, rows: Sequence[TokenIds]) -> Tensor:
        return self.score_batch(lay_out(rows, self.weights.words.device))

    def exactly(self, device: torch.device, rows: Sequence[TokenIds]) -> Tensor:
        """Not a candidate's business."""
        raise NotImplementedError

    @torch.inference_mode()
    def score_batch(self, batch: Batch) -> Tensor:
        held, offsets, longest = self.weights, batch.offsets, max(batch.lengths)
        words = functional.embedding(batch.token_ids, held.words)
        hidden = self._norm(
            words.add_(functional.embedding(batch.positions, held.places)), held.embeddings_norm
        )
        *layers, last = held.layers
        for layer in layers:
            queries, keys, values = self._split(functional.linear(hidden, *layer.projections), 3)
            attended = self.attention(queries, keys, values, offsets, offsets, longest, longest)
            hidden = self._finish(attended, hidden, layer)
        asking = hidden.index_select(0, batch.firsts)
        ones = torch.arange(len(offsets), dtype=torch.int32, device=offsets.device)
        width = hidden.shape[1]
        asks, rest = zip(*(part.tensor_split([width]) for part in last.projections), strict=True)
        (queries,) = self._split(functional.linear(asking, *asks), 1)
        keys, values = self._split(functional.linear(hidden, *rest), 2)
        attended = self.attention(queries, keys, values, ones, offsets, 1, longest)
        return self._head(self._finish(attended, asking, last))

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        return projected.unflatten(1, (parts, self.heads, -1)).unbind(1)

    def _norm(self, hidden: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
        return functional.layer_norm(hidden, norm[0].shape, *norm, self.eps)

    def _finish(self, attended: Tensor, hidden: Tensor, layer: _Layer) -> Tensor:
        out = functional.linear(attended.flatten(1), *layer.after_attention)
        hidden = self.add_norm(out, hidden, *layer.attention_norm, self.eps)
        shrunk = functional.linear(self._grow(hidden, layer), *layer.shrink)
        return self.add_norm(shrunk, hidden, *layer.output_norm, self.eps)

    def _grow(self, hidden: Tensor, layer: _Layer) -> Tensor:
        weight, bias = layer.grow
        if self.tanh_gelu:
            fused: Any = torch._addmm_activation
            return fused(bias, hidden, weight.t(), use_gelu=True)
        return functional.gelu(functional.linear(hidden, weight, bias))

    def _head(self, firsts: Tensor) -> Tensor:
        dense, out = self.weights.head
        return functional.linear(torch.tanh(functional.linear(firsts.float(), *dense)), *out).squeeze(-1)


def _weights_of(source: Any, device: torch.device, body: torch.dtype) -> _Weights:
    def put(tensor: Tensor, dtype: torch.dtype = body) -> Tensor:
        return tensor.detach().to(device, dtype).contiguous()

    def of(*modules: Any, dtype: torch.dtype = body) -> tuple[Tensor, Tensor]:
        weights, biases = [m.weight for m in modules], [m.bias for m in modules]
        return put(torch.cat(weights), dtype), put(torch.cat(biases), dtype)

    embeddings, head = source.roberta.embeddings, source.classifier
    used = embeddings.position_embeddings.weight[XLM_ROBERTA.first_position(source.config.to_dict()) :]
    return _Weights(
        words=put(embeddings.word_embeddings.weight),
        places=put(used + embeddings.token_type_embeddings.weight[0]),
        embeddings_norm=of(embeddings.LayerNorm),
        layers=[_layer_of(layer, of) for layer in source.roberta.encoder.layer],
        head=(of(head.dense, dtype=torch.float32), of(head.out_proj, dtype=torch.float32)),
    )


def _layer_of(layer: Any, of: Callable[..., tuple[Tensor, Tensor]]) -> _Layer:
    asks, after = layer.attention.self, layer.attention.output
    return _Layer(
        projections=of(asks.query, asks.key, asks.value),
        after_attention=of(after.dense),
        attention_norm=of(after.LayerNorm),
        grow=of(layer.intermediate.dense),
        shrink=of(layer.output.dense),
        output_norm=of(layer.output.LayerNorm),
    )
