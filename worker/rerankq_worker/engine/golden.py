"""Scores that others published for a model, and whether an engine gives them. Knows pairs and logits only.

Whose scores they are is told by the weights, never by a name alone: a fine-tune may be called like its parent, and has
scores of its own. The model in the box is known by its hash, one of the Hub by its id at a commit in `KNOWN_REVISIONS`.
The Hub id at any other commit, or a directory of that name, may be compared, and is never refused for it.

The figures (golden.json) carry their source and tolerance. They are reviewed, never regenerated to go green.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol

import numpy as np

from rerankq_worker.engine.errors import EngineDrifted
from rerankq_worker.model.files import KNOWN_REVISIONS, SHIPPED_MODEL, shipped_revision
from rerankq_worker.scoring import EngineInfo, Logits

log = logging.getLogger(__name__)

EXTRA_TOLERANCE = {"fp32": 0.0, "fp16": 0.0, "bf16": 0.15, "int8": 0.5}  # what the precision itself may cost
SHORT_FORM = 3  # pairs checked at every start
PUBLISHER = "BAAI/"  # whose Hub ids golden.json names without it
ANY_PAIRS = [("what is a panda?", "The giant panda is a bear."), ("什么是大熊猫？", "大熊猫是熊科动物。")]
"""For a model of which nothing is known: a number is a number."""


class Scorer(Protocol):
    """What is needed of an engine."""

    @property
    def info(self) -> EngineInfo: ...

    def score_pairs(self, pairs: list[tuple[str, str]]) -> Logits: ...


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
    got: float
    ok: bool


def golden_pairs(model: str) -> list[GoldenPair]:
    """What was published for a model of this name; empty where nothing was. `is_known` says whether it binds."""
    name = model.rsplit("/", 1)[-1]
    if name == SHIPPED_MODEL:
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
    return [
        GoldenResult(pair, got, ok=abs(got - pair.logit) <= pair.tolerance[dtype])  # NaN is not ok
        for pair, got in zip(pairs, logits, strict=True)
    ]


def is_known(info: EngineInfo) -> bool:
    """Whether an engine's weights are those whose scores were published, whatever they are called."""
    if info.model == SHIPPED_MODEL:
        return info.revision == shipped_revision()
    return KNOWN_REVISIONS.get(info.model) == info.revision


def refuse_drift(engine: Scorer) -> None:
    """Keep an engine out of service that gives no numbers, or not the scores its weights are known for.

    The Hub id of published scores at a commit that nobody has compared yet is warned of, not refused.

    Raises:
        EngineDrifted: naming the widest difference.
    """
    info = engine.info
    may_be_known = is_known(info) or info.model.startswith(PUBLISHER)
    results = verify(engine, short=True) if may_be_known else []
    logits = [result.got for result in results] or engine.score_pairs(ANY_PAIRS).tolist()
    if not np.isfinite(logits).all():
        raise EngineDrifted(
            f"{info.model} in {info.dtype} gives no number (NaN) as a score; check the weights, "
            "or choose another RERANKQ_DTYPE"
        )
    wrong = [result for result in results if not result.ok]
    if not wrong:
        return
    worst = max(wrong, key=lambda result: abs(result.got - result.pair.logit))
    off = f"{info.model} in {info.dtype} gives {worst.got:.4f} where {worst.pair.logit:.4f}"
    if is_known(info):
        raise EngineDrifted(f"{off} is known; check the weights, or choose another RERANKQ_DTYPE")
    log.warning("%s is published; at commit %s nobody has compared yet, so it is served", off, info.revision)


def _small_pairs() -> list[GoldenPair]:
    """The scores of the model in the box, which come with it."""
    known = _read("rerankq_worker.model.small")
    common: dict[str, Any] = {name: known[name] for name in ("tolerance", "how", "source")}
    return [GoldenPair(**pair, **common) for pair in known["pairs"]]


def _by_precision(exact: float) -> dict[str, float]:
    return {dtype: exact + extra for dtype, extra in EXTRA_TOLERANCE.items()}


def _read(package: str) -> dict[str, Any]:
    return json.loads(files(package).joinpath("golden.json").read_text(encoding="utf-8"))
