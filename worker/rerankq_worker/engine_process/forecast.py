"""How long a forward pass will take, by those before it. Knows lengths of rows and seconds."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np

REMEMBERED_PASSES = 32
FEWEST_PASSES = 10  # twice the numbers of a size: fewer would be met exactly by any line
LATE_SHARE = 1 / 8  # of passes may have been later than expected: the host was held up, not the device


class Size(NamedTuple):
    """What the duration of a pass grows with, in one model or another."""

    passes: int
    pairs: int
    tokens: int
    padded_tokens: int
    """Were all rows as long as the longest."""
    looks: int
    """Pairs of tokens that attention compares."""

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Self:
        """Of one pass over rows of these lengths."""
        pairs = len(lengths)
        return cls(1, pairs, sum(lengths), pairs * max(lengths), sum(length * length for length in lengths))


@dataclass(slots=True)
class Forecast:
    """So much for each number of a size: the line of least squares through the last passes, and how late they were."""

    _passes: "deque[tuple[float, ...]]" = field(default_factory=lambda: deque(maxlen=REMEMBERED_PASSES))

    def learn(self, size: Size, seconds: float) -> None:
        """Remember how long a pass took."""
        self._passes.append((*size, seconds))

    def seconds_of(self, size: Size) -> float:
        """What such a pass takes at most, by all but the latest passes; infinite where none as large is remembered."""
        if len(self._passes) < FEWEST_PASSES:
            return math.inf
        known = np.array(self._passes)
        sizes, seconds = known[:, :-1], known[:, -1]
        if (size > sizes.max(axis=0)).any():
            return math.inf
        weights = np.linalg.lstsq(sizes, seconds)[0]
        late_seconds = np.sort(seconds - sizes @ weights)[-1 - int(len(known) * LATE_SHARE)]
        return float(weights @ size + max(late_seconds, 0.0))
