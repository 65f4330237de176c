"""XLM-RoBERTa with a one-label head, computed without padding: the scores are those of transformers' own.

Knows weights and tensors; no text, no files, no batches that do not fit. What it does differently from
`XLMRobertaForSequenceClassification`, with the same result: query, key and value in one product; the last layer
for each row's `<s>` only, since the head reads nothing else; the head in fp32 whatever the body's precision.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rerankq_worker.engine.attention import Attention
from rerankq_worker.engine.batch import Batch
from rerankq_worker.engine.linears import Linear, MakeLinear, as_in
from rerankq_worker.engine.packed_model import Norm, PackedModel, norm_of, placed, taken
from rerankq_worker.engine.precision import Precision
from rerankq_worker.model.family import Family


class UnpaddedModel(PackedModel):
    """Rows in, one fp32 logit per row out, on the model's device."""

    def __init__(
        self,
        source: nn.Module,
        family: Family,
        device: torch.device,
        precision: Precision,
        make_linear: MakeLinear,
        attention: Attention,
    ) -> None:
        """Takes the weights of `source`, a transformers XLMRobertaForSequenceClassification in fp32, and empties it."""
        loaded: Any = source
        config = loaded.config
        super().__init__(device, precision, attention)
        self._head = _Head.of(loaded.classifier, device)
        self._embeddings = _Embeddings.of(loaded.roberta.embeddings, family.first_position, device, precision)
        make = _Maker(device, precision.body, make_linear, config.num_attention_heads)
        layers: list[Any] = list(loaded.roberta.encoder.layer)
        self._layers = [make.layer(layer, last=layer is layers[-1]) for layer in layers]

    def _forward(self, batch: Batch, body: torch.dtype, attention: Attention) -> Tensor:
        hidden = self._embeddings(batch, body)
        for layer in self._layers[:-1]:
            hidden = layer(hidden, batch, attention)
        firsts = self._layers[-1].firsts(hidden, batch, attention)
        return self._head(firsts)


@dataclass(frozen=True, slots=True)
class _Embeddings:
    words: Tensor
    """Perhaps in less than the body computes in: these are half of the model's weights."""
    positions: Tensor
    """Position, from the first that is used, and token type together: the type is always 0 in this model."""
    norm: Norm

    @classmethod
    def of(
        cls, source: Any, first_position: int, device: torch.device, precision: Precision
    ) -> "_Embeddings":
        used = source.position_embeddings.weight.data[first_position:]
        positions = used + source.token_type_embeddings.weight.data[0]
        words = taken(source.word_embeddings).to(device, precision.embeddings)
        norm = norm_of(source.LayerNorm, device, precision.body)
        return cls(words, positions.to(device, precision.body), norm)

    def __call__(self, batch: Batch, body: torch.dtype) -> Tensor:
        where = batch.token_ids.device
        words = functional.embedding(batch.token_ids, self.words.to(where)).to(body)
        positions = functional.embedding(batch.positions, self.positions.to(where))
        return self.norm(words.add_(positions))


@dataclass(frozen=True, slots=True)
class _Layer:
    heads: int
    query: Linear | None
    """Only in the last layer, where the firsts ask; elsewhere part of `projections`."""
    projections: Linear
    """Query, key and value in one product; in the last layer key and value."""
    after_attention: Linear
    attention_norm: Norm
    grow: Linear
    shrink: Linear
    output_norm: Norm

    def __call__(self, hidden: Tensor, batch: Batch, attention: Attention) -> Tensor:
        queries, keys, values = self._split(self.projections(hidden), 3)
        return self._finish(hidden, attention(queries, keys, values, batch))

    def firsts(self, hidden: Tensor, batch: Batch, attention: Attention) -> Tensor:
        """[n, hidden]: this layer's output for each row's first token."""
        if self.query is None:
            raise TypeError("only the last layer computes firsts. This is a bug.")
        asking = hidden.index_select(0, batch.firsts)
        (queries,) = self._split(self.query(asking), 1)
        keys, values = self._split(self.projections(hidden), 2)
        return self._finish(asking, attention(queries, keys, values, batch))

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        return projected.unflatten(1, (parts, self.heads, -1)).unbind(1)

    def _finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        hidden = self.attention_norm(self.after_attention(attended.flatten(1)).add_(hidden))
        return self.output_norm(self.shrink(self.grow(hidden)).add_(hidden))


@dataclass(frozen=True, slots=True)
class _Head:
    """fp32 whatever the body: an fp16 head has about 1,000 distinct values between 4 and 8, hence ties."""

    dense: Tensor
    dense_bias: Tensor
    out: Tensor
    out_bias: Tensor

    @classmethod
    def of(cls, source: Any, device: torch.device) -> "_Head":
        tensors = (source.dense.weight, source.dense.bias, source.out_proj.weight, source.out_proj.bias)
        return cls(*(placed(tensor, device, torch.float32) for tensor in tensors))

    def __call__(self, firsts: Tensor) -> Tensor:
        firsts = firsts.float()
        dense, dense_bias, out, out_bias = (
            as_in(held, firsts) for held in (self.dense, self.dense_bias, self.out, self.out_bias)
        )
        return functional.linear(
            torch.tanh(functional.linear(firsts, dense, dense_bias)), out, out_bias
        ).squeeze(-1)


@dataclass(frozen=True, slots=True)
class _Maker:
    """Turns transformers' layers into ours, one at a time, so that the weights are never held twice."""

    device: torch.device
    body: torch.dtype
    make_linear: MakeLinear
    heads: int

    def layer(self, source: Any, last: bool) -> _Layer:
        asks, output = source.attention.self, source.attention.output
        projecting = (asks.key, asks.value) if last else (asks.query, asks.key, asks.value)
        return _Layer(
            heads=self.heads,
            query=self._linear(asks.query) if last else None,
            projections=self._linear(*projecting),
            after_attention=self._linear(output.dense),
            attention_norm=norm_of(output.LayerNorm, self.device, self.body),
            grow=self._linear(source.intermediate.dense, gelu=True),
            shrink=self._linear(source.output.dense),
            output_norm=norm_of(source.output.LayerNorm, self.device, self.body),
        )

    def _linear(self, *sources: Any, gelu: bool = False) -> Linear:
        bias = torch.cat([source.bias.data for source in sources])
        weight = torch.cat([taken(source) for source in sources])
        return self.make_linear(weight, bias, gelu)
