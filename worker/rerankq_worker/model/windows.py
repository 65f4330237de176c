"""How much of a document is read, and in which windows: tokens counted and cut. Knows no tokenizer and no query.

A document that fits into the room is read as it is. A longer one is cut into windows of one length, as few as hold it,
each overlapping the next, so that what stands at a border is read whole in one of them. They are cut from the tokens of
the whole text: no border makes other tokens.
"""

import sys
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rerankq_worker.model.reading import Reading, Span
from rerankq_worker.scoring import TokenIds

OVERLAP_SHARE = 8  # of the room: what is read twice costs an eighth more at most
MOST_OVERLAP_TOKENS = 64  # two or three sentences


Offsets = npt.NDArray[np.int32]
"""For each token its first character in the caller's own text, and the one behind its last."""


class Tokens(Protocol):
    """A text's tokens."""

    @property
    def ids(self) -> TokenIds: ...
    @property
    def offsets(self) -> Offsets: ...


@dataclass(frozen=True, slots=True)
class Part:
    """What of a document goes into one row."""

    ids: TokenIds
    span: Span | None = None
    """Where there are several."""


def overlap_tokens(room: int) -> int:
    """How many tokens, at least, a window has in common with the next."""
    return min(room // OVERLAP_SHARE, MOST_OVERLAP_TOKENS)


def most_tokens(reading: Reading, room: int) -> int:
    """How many tokens of a document are read at most, be it in one row or in several.

    Raises:
        ValueError: a limit is none.
    """
    for name in ("max_tokens_per_doc", "max_windows_per_doc"):
        if (told := getattr(reading, name)) is not None and told < 1:
            raise ValueError(f"expected {name} to be at least 1, got {told}")
    windows = reading.max_windows_per_doc if reading.windows else 1
    reach = sys.maxsize if windows is None else windows * room - (windows - 1) * overlap_tokens(room)
    return reach if reading.max_tokens_per_doc is None else min(reach, reading.max_tokens_per_doc)


def parts(document: Tokens, room: int, limit: int) -> list[Part]:
    """The document's first `limit` tokens as parts of at most `room`.

    Args:
        document: its offsets are looked at only where there are more tokens than room.
    """
    ids = document.ids[:limit]
    if len(ids) <= room:
        return [Part(ids)]
    offsets, cut = document.offsets, windows(len(ids), room)
    return [
        Part(ids[start:end], Span(index, len(cut), int(offsets[start, 0]), int(offsets[end - 1, 1])))
        for index, (start, end) in enumerate(cut)
    ]


def windows(tokens: int, room: int) -> list[tuple[int, int]]:
    """From where to where each window goes: as few as hold all tokens, of one length, evenly placed."""
    overlap = overlap_tokens(room)
    count = -(-max(tokens - overlap, 1) // (room - overlap))
    length = -(-(tokens + (count - 1) * overlap) // count)
    starts = (index * (tokens - length) // max(count - 1, 1) for index in range(count))
    return [(start, start + length) for start in starts]
