"""How long a forward pass will take, by those before it. Knows pairs, tokens and seconds."""

import math
from collections import deque
from dataclasses import dataclass, field

import numpy as np

REMEMBERED_PASSES = 32


@dataclass(slots=True)
class Forecast:
    """So much for a pass, for each pair and for each token: the line of least squares through the last passes."""

    _passes: "deque[tuple[int, int, float]]" = field(default_factory=lambda: deque(maxlen=REMEMBERED_PASSES))

    def learn(self, pairs: int, tokens: int, seconds: float) -> None:
        """Remember how long a pass took."""
        self._passes.append((pairs, tokens, seconds))

    def seconds_of(self, pairs: int, tokens: int) -> float:
        """What such a pass will take; infinite where none as large is remembered, for a guess would be one."""
        if not self._passes:
            return math.inf
        known = np.array(self._passes)
        if pairs > known[:, 0].max() or tokens > known[:, 1].max():
            return math.inf
        sizes = np.column_stack([np.ones(len(known)), known[:, :2]])
        weights = np.linalg.lstsq(sizes, known[:, 2])[0]
        return float(weights @ (1, pairs, tokens))
