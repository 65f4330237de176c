"""Write the small cross-encoder: word overlap, as the weights of an XLM-RoBERTa.

Nothing here is learned and nothing is drawn from a floating-point generator. Each attention head is written
by hand: the residual stream holds one code per piece, the position as sines, and a few named features; a
head compares some of them and copies one. All values come from integers, additions, products, quotients and
square roots, which IEEE 754 fixes to the bit, so every machine writes the same file. The last layer, the
classifier and the weights of pieces are where training starts: what is shipped has trained ones in their place
(`pack.py`). Knows numpy only: no files, no torch, no text.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Tensors = dict[str, npt.NDArray[np.float16]]

HIDDEN = 192
HEADS = 2
HEAD_DIM = HIDDEN // HEADS
FEED_FORWARD = 64  # unused: the heads do all the work, these blocks stay zero
LAYERS = 7
FIRST_POSITION = 2  # the position of <s>: pad + 1
POSITIONS = FIRST_POSITION + 1024
BOS, PAD, EOS, UNKNOWN, MASK = range(5)
SPECIALS = 5

# The stream: a piece's code, the sines of its position, the code of the piece before it, the sines of the
# best place in the document, and named features. All but the codes are pairs (+v, -v), so the mean is zero.
CODE_DIMS = 80  # +1 and -1, as many of each
SHORT_CODE_DIMS = 32  # the first part of a code, balanced in itself: enough to recognise a neighbour
LONG_CODE_DIMS = 52  # as much of a code as fits into a head beside a neighbour's
SINE_PERIODS = (4096, 1024, 512, 256, 128, 64, 32, 8)  # in tokens
PLACE_PERIODS = (4096, 1024, 512)
FEATURES = (
    "is_bos",
    "is_eos",
    "is_other",
    "log_idf",
    "log_idf_rest",
    "segment",
    "no_neighbour",
    "neighbour_log_idf",
    "neighbour_rest",
    "matched",
    "bigram",
    "single",
    "density",
    "near",
)
SINE_START = CODE_DIMS
NEIGHBOUR_START = SINE_START + 4 * len(SINE_PERIODS)
PLACE_START = NEIGHBOUR_START + SHORT_CODE_DIMS
FEATURE_START = PLACE_START + 4 * len(PLACE_PERIODS)
IDF_NORM_SQUARED = 2.0  # log_idf and what is missing to 1, so that common and rare pieces have one norm
NORM_SQUARED = CODE_DIMS + 2 * len(SINE_PERIODS) + IDF_NORM_SQUARED  # of every embedding

SEED = 20261122
IDF_STEPS = 255
LOG_IDF_FLOOR = -4.0  # ln of the smallest weight beside the rarest piece's
LOG_IDF_UNIT = 4.0  # the stream holds log_idf in this unit, -1..0, so that it hardly moves the norm

# Attention logits. What decides is always a difference of two of them.
ELSEWHERE = 60.0  # keeps a head away from the tokens it has no business with
# Weights of the sines that keep their sum at 1 or more for 1 to 1,023 tokens (a linear programme) ...
AFTER = (6.33, 1.84, 1.24, 0.99, 1.08, 0.65, 0.95, 0.91)
SEGMENT_MARGIN = 6.0
# ... and of the cosines that keep their sum 1 or more below its peak at any distance but 0.
HERE = (0.0, 0.5, 0.25, 0.3, 0.29, 0.29, 0.88, 3.35)
NEIGHBOUR_MARGIN = 10.0
NEIGHBOUR_SINK = 5.0  # how far below the peak <s> stands, for a first token has no neighbour
MATCH = 24.0  # a piece meeting its own code
OPPOSITE = 12.0  # query meeting document
# What <s> offers a piece without a copy: less to a document's piece, which must match clearly, more to the
# query's, which matches with n / (n + 0.3) for n copies.
MATCH_SINK, MATCH_SINK_SPREAD = 31.8, 3.0
BIGRAM_MATCH, NEIGHBOUR_MATCH, BIGRAM_SINK = 20.0, 14.0, 42.0
# Weights of the cosines of a distance: together a bell with a standard deviation of about 15 tokens.
BELL = (10.0, 15.0, 25.0)
SINGLE_SINK = -1.4  # beside the peak of the bell: n copies around a token share 1 / (1 + 4 n) between them
DENSITY_SINK = 2.1  # ln of the idf mass at which the density is one half
FOCUS = 600.0  # per unit of density
NEAR_SINK = -2.0  # beside the peak of the bell: half a match at 2 standard deviations

# The classifier reads the three averages at <s>, each in -1..1.
COVERAGE_WEIGHT, NEAR_WEIGHT, BIGRAM_WEIGHT, BIAS = 2.5, 1.25, 2.25, 0.0
ALMOST_LINEAR = 1 / 32  # keeps the classifier's tanh where it is a straight line


def write_weights(idf_steps: npt.NDArray[np.uint8]) -> Tensors:
    """Every tensor of the model, fp16, by its name in an `XLMRobertaForSequenceClassification` checkpoint.

    Args:
        idf_steps: one weight per piece, 0..255, in the order of the vocabulary; 255 is the rarest.
    """
    layers = [
        Layer(
            [_tell_query_from_document(), _remember_the_piece_before()],
            2.0 + SHORT_CODE_DIMS + IDF_NORM_SQUARED,
        ),
        Layer([_match_across(), _match_bigrams()], 4.0),
        Layer([_share_among_copies()], 2.0),
        Layer([_feel_density()], 0.5),
        Layer([_find_the_densest_place()], 2.0 * len(PLACE_PERIODS)),
        Layer([_match_near_that_place()], 2.0),
        Layer([_average_over_query(), _average_over_bigrams()], 4.0),
    ]
    norm_squared = NORM_SQUARED
    tensors = _embeddings(idf_steps)
    for index, layer in enumerate(layers):
        norm_squared += layer.added_norm_squared
        tensors.update(layer.tensors(index, norm_squared))
    tensors.update(_classifier())
    return {name: np.ascontiguousarray(value, dtype=np.float16) for name, value in tensors.items()}


# --- where things lie in the stream -------------------------------------------------------------------------


def feature(name: str) -> int:
    """The dimension of a named feature; its negative lies right after it."""
    return FEATURE_START + 2 * FEATURES.index(name)


def sine_dims(period: int) -> tuple[int, int]:
    """The dimensions of a period's sine and cosine of the token's own position."""
    start = SINE_START + 4 * SINE_PERIODS.index(period)
    return start, start + 2


def place_dims(period: int) -> tuple[int, int]:
    """The dimensions of a period's sine and cosine of the best place in the document."""
    start = PLACE_START + 4 * PLACE_PERIODS.index(period)
    return start, start + 2


# The three averages are read at <s> alone, which has no sines: they may lie where the sines do.
COVERAGE, NEAR_COVERAGE, BIGRAM_COVERAGE = (SINE_START + 2 * index for index in range(3))

# A special has no code, so its own mark carries the norm that a code and the sines would have.
BOS_MARK = math.sqrt(NORM_SQUARED / 2)
EOS_MARK = math.sqrt((CODE_DIMS + IDF_NORM_SQUARED) / 2)
NO_NEIGHBOUR_MARK = math.sqrt((SHORT_CODE_DIMS + IDF_NORM_SQUARED) / 2)


# --- layer 1: who is who ------------------------------------------------------------------------------------


def _tell_query_from_document() -> "Head":
    """Write `segment`: -1 up to the first </s>, +1 after it.

    Every token looks at the </s> that lie before it, or else at <s>. "Before" is a sum of sines of the
    distance; each takes two slots: sin(a - b) = sin a cos b - cos a sin b.
    """
    head = Head()
    for period, share in zip(SINE_PERIODS, AFTER, strict=True):
        sine, cosine = sine_dims(period)
        head.relate({sine: 1.0}, {cosine: 1.0}, SEGMENT_MARGIN * share)
        head.relate({cosine: -1.0}, {sine: 1.0}, SEGMENT_MARGIN * share)
    head.relate({feature("is_bos"): 1 / BOS_MARK}, {feature("is_bos"): 1 / BOS_MARK}, ELSEWHERE)
    head.prefer({feature("is_eos"): 2 * ELSEWHERE / EOS_MARK, feature("is_bos"): 2 * ELSEWHERE / BOS_MARK})
    head.copy({feature("is_eos"): 1 / EOS_MARK}, feature("segment"), scale=2.0, offset=-1.0)
    return head


def _remember_the_piece_before() -> "Head":
    """Copy the short code and the idf of the token one position earlier; after a special, a mark."""
    head = Head()
    for period, share in zip(SINE_PERIODS, HERE, strict=True):
        if share:
            _meet_one_later(head, period, NEIGHBOUR_MARGIN * share)
    peak = NEIGHBOUR_MARGIN * sum(HERE)
    head.prefer({feature("is_bos"): (peak - NEIGHBOUR_SINK) / BOS_MARK})
    for dim in range(SHORT_CODE_DIMS):
        head.copy_dim(dim, NEIGHBOUR_START + dim)
    head.copy({feature("log_idf"): 1.0}, feature("neighbour_log_idf"))
    head.copy({feature("log_idf_rest"): 1.0}, feature("neighbour_rest"))
    no_code = {
        feature("is_bos"): 1 / BOS_MARK,
        feature("is_eos"): 1 / EOS_MARK,
        feature("is_other"): 1 / EOS_MARK,
    }
    head.copy(no_code, feature("no_neighbour"), scale=NO_NEIGHBOUR_MARK)
    return head


def _meet_one_later(head: "Head", period: int, weight: float) -> None:
    """Add weight * cos(distance - 1): the query side is turned back by one token."""
    sine, cosine = sine_dims(period)
    sines, cosines = _turn(max(SINE_PERIODS))
    step = max(SINE_PERIODS) // period
    s, c = float(sines[step]), float(cosines[step])
    head.relate({sine: c, cosine: -s}, {sine: 1.0}, weight)
    head.relate({cosine: c, sine: s}, {cosine: 1.0}, weight)


# --- layer 2: what meets ------------------------------------------------------------------------------------


def _oppose(head: "Head", weight: float) -> None:
    """Add +weight between query and document, -weight within either, 0 at <s>."""
    head.relate(
        {feature("segment"): -1.0}, {feature("segment"): 1.0, feature("is_bos"): 1 / BOS_MARK}, weight
    )


def _match_across() -> "Head":
    """Write `matched`: +1 where the other segment holds the same piece, else -1.

    A token's attention goes to its copies in the other segment; where there is none, <s> takes it all.
    """
    head = Head()
    for dim in range(CODE_DIMS):
        head.relate({dim: 1.0}, {dim: 1.0}, MATCH / CODE_DIMS)
    _oppose(head, OPPOSITE)
    head.prefer({feature("is_bos"): MATCH_SINK / BOS_MARK, feature("is_eos"): -ELSEWHERE / EOS_MARK})
    head.relate({feature("segment"): -1.0}, {feature("is_bos"): 1 / BOS_MARK}, MATCH_SINK_SPREAD)
    head.copy({feature("is_bos"): -1 / BOS_MARK}, feature("matched"), scale=2.0, offset=1.0)
    return head


def _match_bigrams() -> "Head":
    """Write `bigram`: +1 where the other segment holds the same piece after the same neighbour, else -1."""
    head = Head()
    for dim in range(LONG_CODE_DIMS):
        head.relate({dim: 1.0}, {dim: 1.0}, BIGRAM_MATCH / LONG_CODE_DIMS)
    for dim in range(NEIGHBOUR_START, NEIGHBOUR_START + SHORT_CODE_DIMS):
        head.relate({dim: 1.0}, {dim: 1.0}, NEIGHBOUR_MATCH / SHORT_CODE_DIMS)
    _oppose(head, OPPOSITE)
    head.prefer({feature("is_bos"): BIGRAM_SINK / BOS_MARK, feature("is_eos"): -ELSEWHERE / EOS_MARK})
    head.copy({feature("is_bos"): -1 / BOS_MARK}, feature("bigram"), scale=2.0, offset=1.0)
    return head


# --- layers 3 to 6: where most of it meets ------------------------------------------------------------------


def _bell(head: "Head", centre: Callable[[int], tuple[int, int]]) -> None:
    """Add a bell of the distance from `centre` to the key's position; its peak is sum(BELL)."""
    for period, weight in zip(PLACE_PERIODS, BELL, strict=True):
        for mine, other in zip(centre(period), sine_dims(period), strict=True):
            head.relate({mine: 1.0}, {other: 1.0}, weight)


def _share_among_copies() -> "Head":
    """Write `single`: near 1 for a piece alone of its kind around here, 1/n for n copies.

    Without it, a place that repeats one word would look like a place that holds many of the query's words.
    """
    head = Head()
    for dim in range(CODE_DIMS):
        head.relate({dim: 1.0}, {dim: 1.0}, MATCH / CODE_DIMS)
    _bell(head, sine_dims)
    # <s> is a sink for the document's pieces alone: no one else gets a `single`.
    document_only = {
        feature("segment"): 1.0,
        feature("is_bos"): -3 / BOS_MARK,
        feature("is_eos"): -3 / EOS_MARK,
        feature("is_other"): -3 / EOS_MARK,
    }
    head.relate(document_only, {feature("is_bos"): 1 / BOS_MARK}, ELSEWHERE / 2)
    sink = MATCH + sum(BELL) + SINGLE_SINK - ELSEWHERE / 2
    head.prefer(
        {
            feature("segment"): ELSEWHERE / 4,
            feature("is_bos"): (sink + ELSEWHERE / 2) / BOS_MARK,  # its own segment is -1
            feature("is_eos"): -ELSEWHERE / EOS_MARK,
        }
    )
    head.copy({feature("is_bos"): 1 / BOS_MARK}, feature("single"), scale=1 + math.exp(-SINGLE_SINK))
    return head


def _feel_density() -> "Head":
    """Write `density`: the idf of the matched pieces around a token, each kind once, over a large mass."""
    head = Head()
    _bell(head, sine_dims)
    sink = sum(BELL) + DENSITY_SINK
    head.prefer(
        {
            feature("log_idf"): LOG_IDF_UNIT,
            feature("matched"): 10.0,
            feature("segment"): 10.0,
            feature("is_bos"): (sink + 20.0 + 20.0) / BOS_MARK,
            feature("is_eos"): -ELSEWHERE / EOS_MARK,
        }
    )
    head.copy({feature("single"): 1.0}, feature("density"))
    return head


def _find_the_densest_place() -> "Head":
    """Tell every token the position, as sines, where the document is densest."""
    head = Head()
    head.prefer(
        {
            feature("density"): FOCUS,
            feature("segment"): ELSEWHERE / 2,
            feature("is_bos"): -2 * ELSEWHERE / BOS_MARK,
            feature("is_eos"): -2 * ELSEWHERE / EOS_MARK,
        }
    )
    for period in PLACE_PERIODS:
        for own, place in zip(sine_dims(period), place_dims(period), strict=True):
            head.copy({own: 1.0}, place)
    return head


def _match_near_that_place() -> "Head":
    """Write `near`: +1 where the document holds the same piece near its densest place, else -1."""
    head = Head()
    for dim in range(CODE_DIMS):
        head.relate({dim: 1.0}, {dim: 1.0}, MATCH / CODE_DIMS)
    _oppose(head, OPPOSITE)
    _bell(head, place_dims)
    sink = MATCH + OPPOSITE + sum(BELL) + NEAR_SINK
    head.prefer({feature("is_bos"): sink / BOS_MARK, feature("is_eos"): -ELSEWHERE / EOS_MARK})
    head.copy({feature("is_bos"): -1 / BOS_MARK}, feature("near"), scale=2.0, offset=1.0)
    return head


# --- layer 7 and the classifier: how much of the query ------------------------------------------------------


def _average_over_query() -> "Head":
    """Write at <s> the means of `matched` and `near` over the query, each piece weighing its idf."""
    head = Head()
    head.prefer({feature("log_idf"): LOG_IDF_UNIT, **_query_only()})
    head.copy({feature("matched"): 1.0}, COVERAGE)
    head.copy({feature("near"): 1.0}, NEAR_COVERAGE)
    return head


def _average_over_bigrams() -> "Head":
    """Write at <s> the mean of `bigram` over the query, weighing the geometric mean of both idf."""
    head = Head()
    head.prefer(
        {
            feature("log_idf"): LOG_IDF_UNIT / 2,
            feature("neighbour_log_idf"): LOG_IDF_UNIT / 2,
            feature("no_neighbour"): -ELSEWHERE / 4 / NO_NEIGHBOUR_MARK,
            **_query_only(),
        }
    )
    head.copy({feature("bigram"): 1.0}, BIGRAM_COVERAGE)
    return head


def _query_only() -> "Reading":
    """Keep away from the document and the specials."""
    return {
        feature("segment"): -ELSEWHERE / 4,
        feature("is_bos"): -ELSEWHERE / BOS_MARK,
        feature("is_eos"): -ELSEWHERE / EOS_MARK,
    }


def _classifier() -> dict[str, Floats]:
    """Read the three averages at <s>, through a tanh kept nearly linear, into the logit."""
    dense, out = np.zeros((HIDDEN, HIDDEN)), np.zeros((1, HIDDEN))
    dense[0, COVERAGE] = COVERAGE_WEIGHT * ALMOST_LINEAR
    dense[0, NEAR_COVERAGE] = NEAR_WEIGHT * ALMOST_LINEAR
    dense[0, BIGRAM_COVERAGE] = BIGRAM_WEIGHT * ALMOST_LINEAR
    out[0, 0] = 1 / ALMOST_LINEAR
    return {
        "classifier.dense.weight": dense,
        "classifier.dense.bias": np.zeros(HIDDEN),
        "classifier.out_proj.weight": out,
        "classifier.out_proj.bias": np.array([BIAS]),
    }


# --- the embeddings -----------------------------------------------------------------------------------------


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
        if piece >= SPECIALS:
            share = log_idf / LOG_IDF_UNIT
            _write_pair(words[piece], feature("log_idf"), share)
            _write_pair(words[piece], feature("log_idf_rest"), math.sqrt(1 - share * share))
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
    parts = draws[:, :SHORT_CODE_DIMS], draws[:, SHORT_CODE_DIMS:]
    return np.concatenate([_balanced_signs(part) for part in parts], axis=1)


def _balanced_signs(draws: npt.NDArray[np.uint64]) -> Floats:
    """-1 for the larger half of each row's numbers, +1 for the smaller."""
    ranks = np.argsort(np.argsort(draws, axis=1, kind="stable"), axis=1, kind="stable")
    return np.where(ranks < draws.shape[1] // 2, 1.0, -1.0)


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

    def copy(self, value: Reading, target: int, *, scale: float = 1.0, offset: float = 0.0) -> None:
        """Write scale * (what was attended to) + offset to a feature, and its negative beside it."""
        for dim, factor in value.items():
            self.value[self.channels, dim] = factor
        _write_pair(self.output[:, self.channels], target, scale)
        _write_pair(self.output_bias, target, offset)
        self.channels += 1

    def copy_dim(self, source: int, target: int) -> None:
        """Write what one dimension held at what was attended to, without a negative: for balanced codes."""
        self.value[self.channels, source] = 1.0
        self.output[target, self.channels] = 1.0
        self.channels += 1

    def _read(self, side: Floats, reading: Reading, factor: float) -> None:
        for dim, weight in reading.items():
            side[self.slots, dim] = weight * factor


@dataclass(frozen=True, slots=True)
class Layer:
    """Heads, and how much they add to the squared norm of the stream."""

    heads: list[Head]
    added_norm_squared: float

    def tensors(self, index: int, norm_squared: float) -> Iterator[tuple[str, Floats]]:
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
