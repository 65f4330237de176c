"""Write the small cross-encoder: word overlap as the weights of an XLM-RoBERTa.

Nothing here is learned and nothing is drawn from a floating-point generator. Each attention head is written
by hand: the residual stream holds one code per piece, the position as sines, and a few named features; a
head compares some of them and copies one. All values come from integers, additions, products, quotients and
square roots, which IEEE 754 fixes to the bit, so every machine writes the same file. Knows numpy only: no
files, no torch, no text.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Tensors = dict[str, npt.NDArray[np.float16]]

HIDDEN = 192
HEADS = 2
HEAD_DIM = HIDDEN // HEADS
FEED_FORWARD = 64  # unused: the heads do all the work, the blocks stay zero
LAYERS = 3
FIRST_POSITION = 2  # the position of <s>: pad + 1
POSITIONS = FIRST_POSITION + 1024
BOS, PAD, EOS, UNKNOWN, MASK = range(5)
SPECIALS = 5

CODE_DIMS = 80  # a piece's code is 40 times +1 and 40 times -1
SINE_PERIODS = (4096, 1024, 512, 256, 128, 64, 32, 8)  # in tokens
# These keep the sum of sines of a distance at 1 or more from 1 to 1,023 tokens (a small linear programme).
AFTER = (6.33, 1.84, 1.24, 0.99, 1.08, 0.65, 0.95, 0.91)
SINE_START = CODE_DIMS
FEATURE_START = SINE_START + 4 * len(SINE_PERIODS)
FEATURES = ("is_bos", "is_eos", "is_other", "log_idf", "segment", "matched", "coverage")
NORM_SQUARED = CODE_DIMS + 2 * len(SINE_PERIODS)  # of every embedding, up to its log_idf

SEED = 20261122
IDF_STEPS = 255
LOG_IDF_FLOOR = -4.0  # ln of the smallest weight beside the rarest piece's
LOG_IDF_UNIT = 4.0  # the stream holds log_idf in this unit, -1..0, so that it hardly moves the norm

SEGMENT_MARGIN = 6.0  # attention logit between a </s> before a token and one after it, at the least
MATCH = 24.0  # attention logit of a piece meeting its own code
OPPOSITE = 12.0  # ... and of query meeting document
NO_MATCH = 31.0  # what <s> offers to a piece that meets no copy of itself
ELSEWHERE = 60.0  # keeps a head away from the tokens it has no business with

LOGIT_SCALE, LOGIT_BIAS = 8.0, -4.0


def write_weights(idf_steps: npt.NDArray[np.uint8]) -> Tensors:
    """Every tensor of the model, fp16, by its name in an `XLMRobertaForSequenceClassification` checkpoint.

    Args:
        idf_steps: one weight per piece, 0..255, in the order of the vocabulary; 255 is the rarest.
    """
    layers = [_tell_query_from_document(), _match_across(), _average_over_query()]
    tensors = {
        **_embeddings(idf_steps),
        **{name: value for index, layer in enumerate(layers) for name, value in layer.tensors(index)},
        **_classifier(),
    }
    return {name: np.ascontiguousarray(value, dtype=np.float16) for name, value in tensors.items()}


def feature(name: str) -> int:
    """The dimension of a named feature; its negative lies right after it, so the stream has mean zero."""
    return FEATURE_START + 2 * FEATURES.index(name)


# --- the layers ---------------------------------------------------------------------------------------------


def _tell_query_from_document() -> "Layer":
    """Write `segment`: -1 up to the first </s>, +1 after it.

    Every token looks at the </s> that lie before it, or else at <s>. "Before" is a sum of sines of the
    distance, which is positive from 1 to 1,023 tokens; each sine needs two slots: sin(a - b) = sin a cos b
    - cos a sin b.
    """
    head = Head()
    for period, share in zip(SINE_PERIODS, AFTER, strict=True):
        sine, cosine = sine_dims(period)
        head.relate({sine: 1.0}, {cosine: 1.0}, SEGMENT_MARGIN * share)
        head.relate({cosine: -1.0}, {sine: 1.0}, SEGMENT_MARGIN * share)
    head.relate({feature("is_bos"): 1 / BOS_MARK}, {feature("is_bos"): 1 / BOS_MARK}, ELSEWHERE)
    head.prefer({feature("is_eos"): 2 * ELSEWHERE / EOS_MARK, feature("is_bos"): 2 * ELSEWHERE / BOS_MARK})
    head.copy({feature("is_eos"): 1 / EOS_MARK}, feature("segment"), scale=2.0, offset=-1.0)
    return Layer([head], added_norm_squared=2.0)


def _match_across() -> "Layer":
    """Write `matched`: +1 where the other segment holds the same piece, else -1.

    A token's attention goes to its copies in the other segment; where there is none, <s> takes it all.
    """
    head = Head()
    for dim in range(CODE_DIMS):
        head.relate({dim: 1.0}, {dim: 1.0}, MATCH / CODE_DIMS)
    side = {feature("segment"): 1.0, feature("is_bos"): 1 / BOS_MARK}  # 0 at <s>, which belongs to neither
    head.relate({feature("segment"): -1.0}, side, OPPOSITE)
    head.prefer({feature("is_bos"): NO_MATCH / BOS_MARK, feature("is_eos"): -ELSEWHERE / EOS_MARK})
    head.copy({feature("is_bos"): -1 / BOS_MARK}, feature("matched"), scale=2.0, offset=1.0)
    return Layer([head], added_norm_squared=4.0)


def _average_over_query() -> "Layer":
    """Write `coverage` at <s>: the mean of `matched` over the query, each piece weighing its idf."""
    head = Head()
    head.prefer(
        {
            feature("log_idf"): LOG_IDF_UNIT,
            feature("segment"): -ELSEWHERE / 4,
            feature("is_bos"): -ELSEWHERE / BOS_MARK,
            feature("is_eos"): -ELSEWHERE / EOS_MARK,
        }
    )
    head.copy({feature("matched"): 1.0}, feature("coverage"), scale=1.0, offset=0.0)
    return Layer([head], added_norm_squared=4.0)


def _classifier() -> dict[str, Floats]:
    """Read `coverage` at <s>, through a tanh kept nearly linear, into the logit."""
    dense, out = np.zeros((HIDDEN, HIDDEN)), np.zeros((1, HIDDEN))
    dense[0, feature("coverage")] = 0.25
    out[0, 0] = 4 * LOGIT_SCALE / 2
    return {
        "classifier.dense.weight": dense,
        "classifier.dense.bias": np.zeros(HIDDEN),
        "classifier.out_proj.weight": out,
        "classifier.out_proj.bias": np.array([LOGIT_BIAS + LOGIT_SCALE / 2]),
    }


# --- the embeddings -----------------------------------------------------------------------------------------

# A special has no code, so its own mark carries the norm that a code and the sines would have.
BOS_MARK = math.sqrt(NORM_SQUARED / 2)
EOS_MARK = math.sqrt(CODE_DIMS / 2)


def _embeddings(idf_steps: npt.NDArray[np.uint8]) -> dict[str, Floats]:
    """Codes, specials' marks and idf by piece; sines by position."""
    words = np.zeros((len(idf_steps), HIDDEN))
    words[SPECIALS:, :CODE_DIMS] = _codes(len(idf_steps) - SPECIALS)
    for special, name, mark in (
        (BOS, "is_bos", BOS_MARK),
        (EOS, "is_eos", EOS_MARK),
        (PAD, "is_other", EOS_MARK),
        (UNKNOWN, "is_other", EOS_MARK),
        (MASK, "is_other", EOS_MARK),
    ):
        _write_pair(words[special], feature(name), mark)
    for piece, log_idf in enumerate(_log_idf(idf_steps)):
        _write_pair(words[piece], feature("log_idf"), log_idf / LOG_IDF_UNIT if piece >= SPECIALS else 0.0)
    prefix = "roberta.embeddings."
    return {
        prefix + "word_embeddings.weight": words,
        prefix + "position_embeddings.weight": _positions(),
        prefix + "token_type_embeddings.weight": np.zeros((1, HIDDEN)),
        **_layer_norm(prefix + "LayerNorm", NORM_SQUARED),
    }


def _codes(pieces: int) -> Floats:
    """One balanced code of +1 and -1 per piece: a draw of raw PCG64 bits, ranked within each row."""
    draws = np.random.PCG64(SEED).random_raw(pieces * CODE_DIMS).reshape(pieces, CODE_DIMS)
    ranks = np.argsort(np.argsort(draws, axis=1, kind="stable"), axis=1, kind="stable")
    return np.where(ranks < CODE_DIMS // 2, 1.0, -1.0)


def _log_idf(idf_steps: npt.NDArray[np.uint8]) -> list[float]:
    """ln(idf / idf of the rarest piece), not below the floor; rounded: libraries differ in the last bit."""
    table = [
        max(LOG_IDF_FLOOR, round(math.log(max(step, 1) / IDF_STEPS), 6)) for step in range(IDF_STEPS + 1)
    ]
    return [table[step] for step in idf_steps.tolist()]


def _positions() -> Floats:
    """Sines of each period by position. <s> has none: it must be equally far from everything."""
    table = np.zeros((POSITIONS, HIDDEN))
    longest = max(SINE_PERIODS)
    sines, cosines = _turn(longest)
    steps = np.arange(FIRST_POSITION + 1, POSITIONS)
    for period in SINE_PERIODS:
        turns = steps * (longest // period) % longest
        for dim, values in zip(sine_dims(period), (sines, cosines), strict=True):
            table[steps, dim], table[steps, dim + 1] = values[turns], -values[turns]
    return table


def _turn(steps: int) -> tuple[Floats, Floats]:
    """Sine and cosine of a full turn in equal steps (a power of two), by halving angles."""
    sine, cosine = 1.0, 0.0  # a quarter turn
    for _ in range(steps.bit_length() - 3):
        sine, cosine = math.sqrt((1 - cosine) / 2), math.sqrt((1 + cosine) / 2)
    sines, cosines = np.zeros(steps), np.zeros(steps)
    s, c = 0.0, 1.0
    for step in range(steps):
        sines[step], cosines[step] = s, c
        s, c = s * cosine + c * sine, c * cosine - s * sine
    return sines, cosines


def sine_dims(period: int) -> tuple[int, int]:
    """The dimensions of a period's sine and cosine; the negatives lie right after each."""
    start = SINE_START + 4 * SINE_PERIODS.index(period)
    return start, start + 2


# --- how a head and a layer are written ---------------------------------------------------------------------

Reading = dict[int, float]  # dimension -> factor


@dataclass(slots=True)
class Head:
    """One attention head. A slot is one query-key product; a channel is one copied value."""

    query: Floats = field(default_factory=lambda: np.zeros((HEAD_DIM, HIDDEN)))
    query_bias: Floats = field(default_factory=lambda: np.zeros(HEAD_DIM))
    key: Floats = field(default_factory=lambda: np.zeros((HEAD_DIM, HIDDEN)))
    value: Floats = field(default_factory=lambda: np.zeros((HEAD_DIM, HIDDEN)))
    output: Floats = field(default_factory=lambda: np.zeros((HIDDEN, HEAD_DIM)))
    output_bias: Floats = field(default_factory=lambda: np.zeros(HIDDEN))
    slots: int = 0
    channels: int = 0

    def relate(self, query: Reading, key: Reading, weight: float) -> None:
        """Add weight * query * key to the attention logit."""
        side = math.sqrt(weight * math.sqrt(HEAD_DIM))  # undoes the 1/sqrt(head_dim) of attention
        self._read(self.query, query, side)
        self._read(self.key, key, side)
        self.slots += 1

    def prefer(self, key: Reading) -> None:
        """Add a reading of the key alone to the attention logit."""
        side = math.sqrt(math.sqrt(HEAD_DIM))
        self.query_bias[self.slots] = side
        self._read(self.key, key, side)
        self.slots += 1

    def copy(self, value: Reading, target: int, *, scale: float, offset: float) -> None:
        """Write scale * (what was attended to) + offset to a feature, and its negative beside it."""
        for dim, factor in value.items():
            self.value[self.channels, dim] = factor
        _write_pair(self.output[:, self.channels], target, scale)
        _write_pair(self.output_bias, target, offset)
        self.channels += 1

    def _read(self, side: Floats, reading: Reading, factor: float) -> None:
        for dim, weight in reading.items():
            side[self.slots, dim] = weight * factor


@dataclass(frozen=True, slots=True)
class Layer:
    """Heads, and how much they add to the squared norm of the stream."""

    heads: list[Head]
    added_norm_squared: float

    def tensors(self, index: int) -> Iterator[tuple[str, Floats]]:
        """The layer's tensors by checkpoint name."""
        heads = self.heads + [Head()] * (HEADS - len(self.heads))
        prefix = f"roberta.encoder.layer.{index}."
        attention = prefix + "attention."
        yield attention + "self.query.weight", np.concatenate([h.query for h in heads])
        yield attention + "self.query.bias", np.concatenate([h.query_bias for h in heads])
        yield attention + "self.key.weight", np.concatenate([h.key for h in heads])
        yield attention + "self.key.bias", np.zeros(HIDDEN)
        yield attention + "self.value.weight", np.concatenate([h.value for h in heads])
        yield attention + "self.value.bias", np.zeros(HIDDEN)
        yield attention + "output.dense.weight", np.concatenate([h.output for h in heads], axis=1)
        yield attention + "output.dense.bias", sum((h.output_bias for h in heads), np.zeros(HIDDEN))
        norm_squared = NORM_SQUARED + self.added_norm_squared
        yield from _layer_norm(attention + "output.LayerNorm", norm_squared).items()
        yield prefix + "intermediate.dense.weight", np.zeros((FEED_FORWARD, HIDDEN))
        yield prefix + "intermediate.dense.bias", np.zeros(FEED_FORWARD)
        yield prefix + "output.dense.weight", np.zeros((HIDDEN, FEED_FORWARD))
        yield prefix + "output.dense.bias", np.zeros(HIDDEN)
        yield from _layer_norm(prefix + "output.LayerNorm", norm_squared).items()


def _layer_norm(name: str, norm_squared: float) -> dict[str, Floats]:
    """A LayerNorm whose gain gives the stream back its proper norm, so that features keep their units."""
    gain = math.sqrt(norm_squared / HIDDEN)
    return {f"{name}.weight": np.full(HIDDEN, gain), f"{name}.bias": np.zeros(HIDDEN)}


def _write_pair(row: Floats, dim: int, value: float) -> None:
    """Put a value and, right after it, its negative."""
    row[dim], row[dim + 1] = value, -value
