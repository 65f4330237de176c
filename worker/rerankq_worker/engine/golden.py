"""Whether an engine gives the scores that others published for its model. Knows pairs and logits only."""

import logging
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rerankq_worker.engine.errors import EngineDrifted
from rerankq_worker.model.published import GoldenPair, golden_pairs, is_known
from rerankq_worker.scoring import EngineInfo, Logits

log = logging.getLogger(__name__)

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
class GoldenResult:
    """One published logit beside the engine's."""

    pair: GoldenPair
    got: float
    ok: bool


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


def refuse_drift(engine: Scorer) -> None:
    """Keep an engine out of service that gives no numbers, or not the scores its weights are known for.

    The Hub id of published scores at a commit that nobody has compared yet is warned of, not refused.

    Raises:
        EngineDrifted: naming the widest difference.
    """
    info = engine.info
    may_be_known = is_known(info.model, info.revision) or info.model.startswith(PUBLISHER)
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
    if is_known(info.model, info.revision):
        raise EngineDrifted(f"{off} is known; check the weights, or choose another RERANKQ_DTYPE")
    log.warning("%s is published; at commit %s nobody has compared yet, so it is served", off, info.revision)
