"""Scores that others published for a model, and whether an engine gives them. Knows pairs and logits only.

The figures (golden.json) carry their source and tolerance. They are reviewed, never regenerated to go green.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rerankq_worker.engine.errors import EngineDrifted

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
    tolerance: Mapping[str, float]
    """By how much a logit may differ, for each precision."""
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
    name = model.rsplit("/", 1)[-1]
    if name == "small":
        return _small_pairs()
    known = _read("rerankq_worker.engine")["models"].get(name, [])
    return [GoldenPair(**entry | {"tolerance": _by_precision(entry["tolerance"])}) for entry in known]


def verify(engine: Scorer, short: bool = False) -> list[GoldenResult]:
    """Each published pair scored: what was expected, what came, whether it is within tolerance.

    Empty for a model without published scores. `short` is the form for every start: the first three pairs.
    """
    pairs = golden_pairs(engine.info.model)[: SHORT_FORM if short else None]
    logits = engine.score_pairs([(pair.query, pair.document) for pair in pairs]).tolist()
    dtype = engine.info.dtype
    return [_result(pair, got, pair.tolerance[dtype]) for pair, got in zip(pairs, logits, strict=True)]


def refuse_drift(engine: Scorer) -> None:
    """Keep an engine out of service that does not give the scores its model is known for.

    Raises:
        EngineDrifted: naming the widest difference.
    """
    wrong = [result for result in verify(engine, short=True) if not result.ok]
    if wrong:
        worst = max(wrong, key=lambda result: abs(result.difference) if result.got == result.got else np.inf)
        raise EngineDrifted(
            f"{engine.info.model} in {engine.info.dtype} gives {worst.got:.4f} where "
            f"{worst.expected:.4f} is known; check the weights, or choose another RERANKQ_DTYPE"
        )


def _small_pairs() -> list[GoldenPair]:
    """The scores of the model in the box, which come with it."""
    known = _read("rerankq_worker.small_model")
    common: dict[str, Any] = {name: known[name] for name in ("tolerance", "how", "source")}
    return [GoldenPair(**pair, **common) for pair in known["pairs"]]


def _by_precision(exact: float) -> dict[str, float]:
    return {dtype: exact + extra for dtype, extra in EXTRA_TOLERANCE.items()}


def _read(package: str) -> dict[str, Any]:
    return json.loads(files(package).joinpath("golden.json").read_text(encoding="utf-8"))


def _result(pair: GoldenPair, got: float, tolerance: float) -> GoldenResult:
    difference = got - pair.logit
    return GoldenResult(pair, pair.logit, got, difference, ok=abs(difference) <= tolerance)  # NaN is not ok
