"""What is known of the scores of a job's rows. Equal rows, those with the same token ids, are scored once.

A row scored twice gets two scores: what shares its batch moves their low bits, and with them the caller's order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from rerankq_worker.model.reading import Row
from rerankq_worker.scoring import Logits

Positions = npt.NDArray[np.intp]
_NO_POSITIONS = partial(np.empty, 0, dtype=np.intp)


@dataclass(slots=True, eq=False)
class ScoreSheet:
    """The rows of a job, of all its requests that have been read, and their scores."""

    rows: list[Row] = field(default_factory=list[Row])
    logits: Logits = field(default_factory=partial(np.empty, 0, dtype=np.float32))
    """NaN where there is none yet; equal rows have equal ones."""
    firsts: Positions = field(default_factory=_NO_POSITIONS)
    """For each row the first that equals it."""
    documents: Positions = field(default_factory=_NO_POSITIONS)
    """For each row which document it is of, counted through all requests of the job."""
    was_known: npt.NDArray[np.bool_] = field(default_factory=partial(np.empty, 0, dtype=np.bool_))
    """Which scores an earlier attempt left behind."""
    _places: dict[bytes, int] = field(default_factory=dict[bytes, int])

    def add(self, rows: Sequence[Row]) -> Positions:
        """Further rows; which of them equal none before, and are to be asked for."""
        start = len(self.rows)
        places = [self._place(row, position) for position, row in enumerate(rows, start)]
        documents = _documents(rows) + self.documents.max(initial=0)
        self.rows = [*self.rows, *rows]
        self.firsts = np.append(self.firsts, np.array(places, dtype=np.intp))
        self.documents = np.append(self.documents, documents)
        unknown = np.full(len(rows), np.nan, dtype=np.float32)
        self.logits = np.append(self.logits, unknown)[self.firsts]
        self.was_known = np.append(self.was_known, np.zeros(len(rows), dtype=np.bool_))
        return np.array([place for position, place in enumerate(places, start) if place == position], np.intp)

    def know(self, logits: Logits) -> Positions:
        """Take what an earlier attempt left of all rows; which are to be asked for."""
        self.logits = logits[self.firsts]
        self.was_known = ~np.isnan(self.logits)
        return self.to_ask(np.arange(len(self.rows)))

    def _place(self, row: Row, position: int) -> int:
        """The position of the first row with its token ids; its own where it is the first."""
        return self._places.setdefault(row.token_ids.tobytes(), position)

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
