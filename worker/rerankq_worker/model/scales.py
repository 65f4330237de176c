"""How a logit becomes a `relevance_score`: by the scale that a model's card has its scores on. Knows numbers only."""

import math
from collections.abc import Callable, Mapping


def sigmoid(logit: float) -> float:
    """0..1, without overflow at either end."""
    if logit >= 0:
        return 1 / (1 + math.exp(-logit))
    exponential = math.exp(logit)
    return exponential / (1 + exponential)


SCALES: Mapping[str, Callable[[float], float]] = {"sigmoid": sigmoid, "identity": float, "tanh": math.tanh}
