"""Scores that others published for a model, and whether an engine gives them. Knows pairs and logits only.

The figures (golden.json) carry their source and tolerance. They are reviewed, never regenerated to go green.
"""

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

EXTRA_TOLERANCE = {"fp32": 0.0, "fp16": 0.0, "bf16": 0.15, "int8": 0.5}  # what the precision itself may cost
SHORT_FORM = 3  # pairs checked at every start


class Scorer(Protocol):
    """What is needed of an engine."""

    @property
    def info(self) -> Any: ...

    def score_pairs(self, pairs: list[tuple[str, str]]) -> npt.NDArray[np.float32]: ...


@dataclass(frozen=True, slots=True)
class GoldenPair:
    """A pair and the logit that was published for it."""

    query: str
    document: str
    logit: float
    tolerance: float
    how: str
    """With what software and precision the published figure was made."""
    source: str


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """One published logit beside the engine's."""

    pair: GoldenPair
    expected: float
    got: float
    difference: float
    ok: bool


def golden_pairs(model: str) -> list[GoldenPair]:
    """What is known of a model, by Hub id or directory name; empty for one that nobody published scores of."""
    content = json.loads(files("rerankq_worker.engine").joinpath("golden.json").read_text(encoding="utf-8"))
    known = cast(dict[str, list[dict[str, Any]]], content["models"])
    return [GoldenPair(**entry) for entry in known.get(model.rsplit("/", 1)[-1], [])]


def verify(engine: Scorer, short: bool = False) -> list[GoldenResult]:
    """Each published pair scored: what was expected, what came, whether it is within tolerance.

    Empty for a model without published scores. `short` is the form for every start: the first three pairs.
    """
    pairs = golden_pairs(engine.info.model)[: SHORT_FORM if short else None]
    logits = engine.score_pairs([(pair.query, pair.document) for pair in pairs]).tolist()
    extra = EXTRA_TOLERANCE[engine.info.dtype]
    return [_result(pair, got, pair.tolerance + extra) for pair, got in zip(pairs, logits, strict=True)]


def _result(pair: GoldenPair, got: float, tolerance: float) -> GoldenResult:
    difference = got - pair.logit
    return GoldenResult(pair, pair.logit, got, difference, ok=abs(difference) <= tolerance)  # NaN is not ok
