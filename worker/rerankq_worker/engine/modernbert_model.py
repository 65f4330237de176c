"""ModernBERT with a head that scores, computed without padding: the scores are those of transformers' own.

Knows weights and tensors; no text, no files, no batches that do not fit. What it does differently from
`ModernBertForSequenceClassification`, with the same result: a head's dimensions lie in another order, the two that are
turned by one angle beside each other, so that turning is one complex product; where the score is read from each
row's first token, the last layer is computed for these only; the head in fp32 whatever the body's precision.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from rerankq_worker.engine.attention import Attention
from rerankq_worker.engine.batch import Batch
from rerankq_worker.engine.linears import Linear, MakeLinear, as_in
from rerankq_worker.engine.packed_model import Norm, PackedModel, bias_of, norm_of, one_label, placed, taken
from rerankq_worker.engine.precision import Precision
from rerankq_worker.model.errors import NotPacked
from rerankq_worker.model.family import Family

SLIDING = "sliding_attention"


class ModernBertModel(PackedModel):
    def __init__(
        self,
        source: nn.Module,
        family: Family,  # noqa: ARG002 - as every forward pass is built
        device: torch.device,
        precision: Precision,
        make_linear: MakeLinear,
        attention: Attention,
    ) -> None:
        """Takes the weights of `source`, a transformers ModernBertForSequenceClassification in fp32, and empties it."""
        loaded: Any = source
        config, body = loaded.config, loaded.model
        super().__init__(device, precision, attention, windows=SLIDING in config.layer_types)
        self._means = config.classifier_pooling == "mean"
        make = _Maker(device, precision.body, make_linear, config)
        self._head = _Head.of(loaded, device)
        self._words = taken(body.embeddings.tok_embeddings).to(device, precision.embeddings)
        self._words_norm = make.norm(body.embeddings.norm)
        self._turns = {kind: _Turn.of(body.rotary_emb, kind, device) for kind in set(config.layer_types)}
        self._layers = [make.layer(layer) for layer in body.layers]
        self._final_norm = make.norm(body.final_norm)

    def _forward(self, batch: Batch, body: torch.dtype, attention: Attention) -> Tensor:
        words = functional.embedding(batch.token_ids, self._words.to(batch.token_ids.device))
        hidden = self._words_norm(words.to(body))
        angles = {kind: turn(batch.positions) for kind, turn in self._turns.items()}
        *layers, last = self._layers
        for layer in layers:
            hidden = layer(hidden, batch, angles[layer.kind], attention)
        if self._means:
            whole = self._final_norm(last(hidden, batch, angles[last.kind], attention))
            return self._head(_mean_of_rows(whole.float(), batch))
        return self._head(self._final_norm(last.firsts(hidden, batch, angles[last.kind], attention)))


@dataclass(frozen=True, slots=True)
class _Turn:
    """Rotary embedding: by which angle a position turns each pair of a head's dimensions."""

    frequencies: Tensor
    """fp32, [D / 2]."""
    scale: float

    @classmethod
    def of(cls, source: Any, kind: str, device: torch.device) -> "_Turn":
        if source.rope_type[kind] == "longrope":
            raise NotPacked(
                "expected rotary embeddings that turn by the position alone, got rope_type longrope, by which a row's "
                "length counts, too; RERANKQ_ENGINE=sentence-transformers computes them"
            )
        frequencies = placed(getattr(source, f"{kind}_inv_freq"), device, torch.float32)
        return cls(frequencies, getattr(source, f"{kind}_attention_scaling"))

    def __call__(self, positions: Tensor) -> Tensor:
        """complex64, [T, 1, D / 2]; fp32 always: half precision would tell positions beyond 2,048 apart no more."""
        angles = positions[:, None, None] * self.frequencies.to(positions.device)
        return torch.polar(torch.full_like(angles, self.scale), angles)


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    """[T, H, D] turned, in the precision it came in; `x` itself may be turned."""
    wide = x.float().unflatten(-1, (-1, 2))
    torch.view_as_complex(wide).mul_(angles)
    return wide.flatten(-2).to(x.dtype)


@dataclass(frozen=True, slots=True)
class _Layer:
    kind: str
    """Of attention; each has angles of its own."""
    window: int | None
    """How far a token sees to each side; None: to the ends of its row."""
    heads: int
    attention_norm: Norm
    projections: Linear
    """Query, key and value in one product."""
    after_attention: Linear
    output_norm: Norm
    grow: Linear
    """To what is activated and what it is multiplied with, in one product."""
    activation: Callable[[Tensor], Tensor]
    shrink: Linear

    def __call__(self, hidden: Tensor, batch: Batch, angles: Tensor, attention: Attention) -> Tensor:
        queries, keys, values = self._projected(hidden, angles)
        return self._finish(hidden, attention(queries, keys, values, batch, self.window))

    def firsts(self, hidden: Tensor, batch: Batch, angles: Tensor, attention: Attention) -> Tensor:
        """[n, hidden]: this layer's output for each row's first token."""
        queries, keys, values = self._projected(hidden, angles)
        if self.window is None:
            attended = attention(queries.index_select(0, batch.firsts), keys, values, batch)
        else:
            attended = attention(queries, keys, values, batch, self.window).index_select(0, batch.firsts)
        return self._finish(hidden.index_select(0, batch.firsts), attended)

    def _projected(self, hidden: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        projected = self.projections(self.attention_norm(hidden)).unflatten(1, (3 * self.heads, -1))
        turned = _turned(projected[:, : 2 * self.heads], angles)
        return turned[:, : self.heads], turned[:, self.heads :], projected[:, 2 * self.heads :]

    def _finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        hidden = self.after_attention(attended.flatten(1)).add_(hidden)
        grown, gates = self.grow(self.output_norm(hidden)).chunk(2, dim=-1)
        return self.shrink(self.activation(grown).mul_(gates)).add_(hidden)


@dataclass(frozen=True, slots=True)
class _Head:
    """fp32 whatever the body: an fp16 head has about 1,000 distinct values between 4 and 8, hence ties."""

    dense: Tensor
    dense_bias: Tensor
    activation: Callable[[Tensor], Tensor]
    norm: Norm
    out: Tensor
    out_bias: Tensor

    @classmethod
    def of(cls, loaded: Any, device: torch.device) -> "_Head":
        head = loaded.head
        out, out_bias = one_label(loaded.classifier, device)
        return cls(
            dense=placed(head.dense.weight, device, torch.float32),
            dense_bias=bias_of(head.dense).to(device),
            activation=head.act,
            norm=norm_of(head.norm, device, torch.float32),
            out=out,
            out_bias=out_bias,
        )

    def __call__(self, pooled: Tensor) -> Tensor:
        pooled = pooled.float()
        dense, dense_bias, out, out_bias = (
            as_in(held, pooled) for held in (self.dense, self.dense_bias, self.out, self.out_bias)
        )
        hidden = self.norm(self.activation(functional.linear(pooled, dense, dense_bias)))
        return functional.linear(hidden, out, out_bias).squeeze(-1)


@dataclass(frozen=True, slots=True)
class _Maker:
    """Turns transformers' layers into ours, one at a time, so that the weights are never held twice."""

    device: torch.device
    body: torch.dtype
    make_linear: MakeLinear
    config: Any

    def layer(self, source: Any) -> _Layer:
        kind, heads = source.attention_type, self.config.num_attention_heads
        return _Layer(
            kind=kind,
            window=self.config.local_attention // 2 if kind == SLIDING else None,
            heads=heads,
            attention_norm=self.norm(source.attn_norm),
            projections=self._projections(source.attn.Wqkv, heads),
            after_attention=self._linear(source.attn.Wo),
            output_norm=self.norm(source.mlp_norm),
            grow=self._linear(source.mlp.Wi),
            activation=source.mlp.act,
            shrink=self._linear(source.mlp.Wo),
        )

    def norm(self, source: Any) -> Norm:
        """Also of the first layer, which has none before its attention."""
        if isinstance(source, nn.Identity):
            return lambda hidden: hidden
        return norm_of(source, self.device, self.body)

    def _projections(self, source: Any, heads: int) -> Linear:
        """With queries and keys in an order of ours: all that is made of these two is their products."""
        bias, weight = (_beside(part, heads) for part in (bias_of(source), taken(source)))
        return self.make_linear(weight, bias, False)

    def _linear(self, source: Any) -> Linear:
        bias = bias_of(source)
        return self.make_linear(taken(source), bias, False)


def _beside(projection: Tensor, heads: int) -> Tensor:
    """A weight or bias [3 * H * D, ...] whose queries and keys have what is turned by one angle beside each other."""
    asked, values = projection.unflatten(0, (3, heads, -1)).tensor_split([2])
    halves = asked.unflatten(2, (2, -1))
    return torch.cat([halves.transpose(2, 3).reshape(asked.shape), values]).flatten(0, 2)


def _mean_of_rows(hidden: Tensor, batch: Batch) -> Tensor:
    """[n, hidden]: the mean of each row's tokens."""
    tokens = sum(batch.lengths)  # without the fillers
    return torch.segment_reduce(hidden[:tokens], "mean", offsets=batch.offsets.long(), unsafe=True)
