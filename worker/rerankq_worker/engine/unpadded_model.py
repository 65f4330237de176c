"""BERT and its kin with a head that scores, computed without padding: the scores are those of transformers' own.

Knows weights and tensors; no text, no files, no batches that do not fit. What it does differently from the
`…ForSequenceClassification` of XLM-RoBERTa, RoBERTa, CamemBERT, BERT, ERNIE, ELECTRA and DistilBERT, with the same
result: query, key and value in one product; the last layer for each row's first token only, since the head reads
nothing else; the head in fp32 whatever the body's precision; of two labels their difference.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rerankq_worker.engine.attention import Attention
from rerankq_worker.engine.batch import Batch
from rerankq_worker.engine.linears import Linear, MakeLinear, as_in
from rerankq_worker.engine.packed_model import Norm, PackedModel, norm_of, one_label, placed, taken
from rerankq_worker.engine.precision import Precision
from rerankq_worker.model.family import Family

HEAD_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "relu": functional.relu,
}


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
        """Takes the weights of `source`, transformers' own model in fp32, and empties it."""
        loaded: Any = source
        config, body = loaded.config, loaded.base_model
        super().__init__(device, precision, attention)
        dense, out = map(source.get_submodule, family.head)
        self._head = _Head.of(dense, HEAD_ACTIVATIONS[family.activation], out, device)
        make = _Maker(device, precision, make_linear, config.num_attention_heads)
        self._embeddings = make.embeddings(body, family.first_position(config.to_dict()))
        layers = list((body.transformer if hasattr(body, "transformer") else body.encoder).layer)
        self._layers = [make.layer(_Parts.of(layer), last=layer is layers[-1]) for layer in layers]

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
    """Position, from the first that is used, and segment together: all of the first segment, then of the second."""
    of_a_segment: int
    """Where the second begins; 0 where the model knows one."""
    norm: Norm
    project: Linear | None
    """Where words are narrower than the layers."""

    def __call__(self, batch: Batch, body: torch.dtype) -> Tensor:
        where = batch.token_ids.device
        words = functional.embedding(batch.token_ids, self.words.to(where)).to(body)
        places = batch.positions
        if self.of_a_segment and batch.segments is not None:
            places = places + batch.segments * self.of_a_segment
        hidden = self.norm(words.add_(functional.embedding(places, self.positions.to(where))))
        return hidden if self.project is None else self.project(hidden)


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
    activation: Callable[[Tensor], Tensor]
    out: Tensor
    out_bias: Tensor

    @classmethod
    def of(
        cls, dense: Any, activation: Callable[[Tensor], Tensor], out: Any, device: torch.device
    ) -> "_Head":
        weight, bias = (
            placed(dense.weight, device, torch.float32),
            placed(dense.bias, device, torch.float32),
        )
        return cls(weight, bias, activation, *one_label(out, device))

    def __call__(self, firsts: Tensor) -> Tensor:
        firsts = firsts.float()
        dense, dense_bias, out, out_bias = (
            as_in(held, firsts) for held in (self.dense, self.dense_bias, self.out, self.out_bias)
        )
        dense_out = self.activation(functional.linear(firsts, dense, dense_bias))
        return functional.linear(dense_out, out, out_bias).squeeze(-1)


@dataclass(frozen=True, slots=True)
class _Parts:
    """A layer of transformers', whatever it calls its modules."""

    query: Any
    key: Any
    value: Any
    after_attention: Any
    attention_norm: Any
    grow: Any
    activation: Callable[[Tensor], Tensor]
    shrink: Any
    output_norm: Any

    @classmethod
    def of(cls, layer: Any) -> "_Parts":
        attention = layer.attention
        if hasattr(attention, "q_lin"):  # DistilBERT
            ffn = layer.ffn
            asks = (attention.q_lin, attention.k_lin, attention.v_lin)
            after = (attention.out_lin, layer.sa_layer_norm)
            return cls(*asks, *after, ffn.lin1, ffn.activation, ffn.lin2, layer.output_layer_norm)
        asks = (attention.self.query, attention.self.key, attention.self.value)
        after = (attention.output.dense, attention.output.LayerNorm)
        grow = (layer.intermediate.dense, layer.intermediate.intermediate_act_fn)
        return cls(*asks, *after, *grow, layer.output.dense, layer.output.LayerNorm)


@dataclass(frozen=True, slots=True)
class _Maker:
    """Turns transformers' layers into ours, one at a time, so that the weights are never held twice."""

    device: torch.device
    precision: Precision
    make_linear: MakeLinear
    heads: int

    def embeddings(self, body: Any, first_position: int) -> _Embeddings:
        source = body.embeddings
        used = source.position_embeddings.weight.data[first_position:]
        positions = used
        if hasattr(source, "token_type_embeddings"):
            segments = source.token_type_embeddings.weight.data[:2]
            positions = (used + segments[:, None]).flatten(0, 1)
        return _Embeddings(
            words=taken(source.word_embeddings).to(self.device, self.precision.embeddings),
            positions=positions.to(self.device, self.precision.body),
            of_a_segment=len(used) if len(positions) > len(used) else 0,
            norm=self._norm(source.LayerNorm),
            project=self._linear(body.embeddings_project) if hasattr(body, "embeddings_project") else None,
        )

    def layer(self, source: _Parts, last: bool) -> _Layer:
        projecting = (source.key, source.value) if last else (source.query, source.key, source.value)
        return _Layer(
            heads=self.heads,
            query=self._linear(source.query) if last else None,
            projections=self._linear(*projecting),
            after_attention=self._linear(source.after_attention),
            attention_norm=self._norm(source.attention_norm),
            grow=self._grow(source),
            shrink=self._linear(source.shrink),
            output_norm=self._norm(source.output_norm),
        )

    def _grow(self, source: _Parts) -> Linear:
        activation = source.activation
        if _is_gelu(activation):
            return self._linear(source.grow, gelu=True)
        linear = self._linear(source.grow)
        return lambda hidden: activation(linear(hidden))

    def _norm(self, source: Any) -> Norm:
        return norm_of(source, self.device, self.precision.body)

    def _linear(self, *sources: Any, gelu: bool = False) -> Linear:
        bias = torch.cat([source.bias.data for source in sources])
        weight = torch.cat([taken(source) for source in sources])
        return self.make_linear(weight, bias, gelu)


def _is_gelu(activation: Callable[[Tensor], Tensor]) -> bool:
    """Whether it is the exact one, under whichever of its names; its approximations differ by 1e-4 and more."""
    probe = torch.linspace(-4, 4, 65)
    return torch.allclose(activation(probe), functional.gelu(probe), rtol=0, atol=1e-6)
