"""What is known of the scores of a job's rows. Equal rows, those with the same token ids, are scored once.

A row scored twice gets two scores: what shares its batch moves their low bits, and with them the caller's order.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rerankq_worker.model.reading import Row
from rerankq_worker.scoring import Logits

Positions = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class ScoreSheet:
    """The rows of a job, of all its requests, and their scores."""

    rows: list[Row]
    logits: Logits
    """NaN where there is none yet; equal rows have equal ones."""
    firsts: Positions
    """For each row the first that equals it."""
    documents: Positions
    """For each row which document it is of, counted through all requests of the job."""
    was_known: npt.NDArray[np.bool_]
    """Which scores an earlier attempt left behind."""

    @classmethod
    def of(cls, rows: list[Row], logits: Logits) -> "ScoreSheet":
        """The sheet of rows of which an earlier attempt left these logits."""
        firsts = _first_equals(rows)
        logits = logits[firsts]
        return cls(rows, logits, firsts, _documents(rows), ~np.isnan(logits))

    def unscored_documents(self, positions: Positions) -> int:
        """How many documents of the rows at these positions lack a score for any of their rows."""
        return len(np.unique(self.documents[positions[np.isnan(self.logits[positions])]]))

    @property
    def scored_documents(self) -> int:
        """How many documents have all their rows scored."""
        everywhere = np.arange(len(self.rows))
        return len(np.unique(self.documents)) - self.unscored_documents(everywhere)

    @property
    def is_duplicate(self) -> npt.NDArray[np.bool_]:
        """Which rows get the score that was made here for an earlier one."""
        return ~self.was_known & (self.firsts != np.arange(len(self.rows)))

    def to_ask(self, positions: Positions) -> Positions:
        """The rows whose scores are missing for those at these positions to have one."""
        firsts = np.unique(self.firsts[positions])
        return firsts[np.isnan(self.logits[firsts])]

    def write(self, positions: Positions, logits: Logits) -> None:
        """Note the scores of rows that `to_ask` named, for all that equal them."""
        self.logits[positions] = logits
        self.logits[:] = self.logits[self.firsts]


def _documents(rows: Sequence[Row]) -> Positions:
    begins = [row.span is None or row.span.index == 0 for row in rows]
    return np.array(begins, dtype=np.intp).cumsum()


def _first_equals(rows: Sequence[Row]) -> Positions:
    """For each row the position of the first one with its token ids; its own where it is the first."""
    firsts: dict[bytes, int] = {}
    found = [firsts.setdefault(row.token_ids.tobytes(), position) for position, row in enumerate(rows)]
    return np.array(found, dtype=np.intp)
