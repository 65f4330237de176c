"""Which rows are one and the same to the model. Knows token ids; no score.

A row scored twice gets two scores: what shares its batch moves their low bits, and with them the caller's order.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rerankq_worker.scoring import TokenIds


def first_equals(rows: Sequence[TokenIds]) -> npt.NDArray[np.intp]:
    """For each row the position of the first one with its token ids; its own where it is the first."""
    firsts: dict[bytes, int] = {}
    found = [firsts.setdefault(row.tobytes(), position) for position, row in enumerate(rows)]
    return np.array(found, dtype=np.intp)
