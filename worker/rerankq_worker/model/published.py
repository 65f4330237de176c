"""Scores that others published for a model, and whose they are. Knows pairs and names only.

Whose scores they are is told by the weights, never by a name alone: a fine-tune may be called like its parent, and has
scores of its own. The model in the box is known by its hash, one of the Hub by its id at a commit in `KNOWN_REVISIONS`.
The Hub id at any other commit, or a directory of that name, may be compared, and is never refused for it.

The figures (golden.json) carry their source and tolerance. They are reviewed, never regenerated to go green.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from rerankq_worker.model.files import KNOWN_REVISIONS, SHIPPED_MODEL, shipped_revision

EXTRA_TOLERANCE = {"fp32": 0.0, "fp16": 0.0, "bf16": 0.15, "int8": 0.5}  # what the precision itself may cost


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


def golden_pairs(model: str) -> list[GoldenPair]:
    """What was published for a model of this name; empty where nothing was. `is_known` says whether it binds."""
    name = model.rsplit("/", 1)[-1]
    if name == SHIPPED_MODEL:
        return _small_pairs()
    known = _read("rerankq_worker.model")["models"].get(name, [])
    return [GoldenPair(**entry | {"tolerance": _by_precision(entry["tolerance"])}) for entry in known]


def is_known(model: str, revision: str) -> bool:
    """Whether weights are those whose scores were published, whatever they are called."""
    if model == SHIPPED_MODEL:
        return revision == shipped_revision()
    return KNOWN_REVISIONS.get(model) == revision


def _small_pairs() -> list[GoldenPair]:
    """The scores of the model in the box, which come with it."""
    known = _read("rerankq_worker.model.small")
    common: dict[str, Any] = {name: known[name] for name in ("tolerance", "how", "source")}
    return [GoldenPair(**pair, **common) for pair in known["pairs"]]


def _by_precision(exact: float) -> dict[str, float]:
    return {dtype: exact + extra for dtype, extra in EXTRA_TOLERANCE.items()}


def _read(package: str) -> dict[str, Any]:
    return json.loads(files(package).joinpath("golden.json").read_text(encoding="utf-8"))
