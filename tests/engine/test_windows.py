"""A long document is read whole, in windows that overlap, each told by its characters."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankq_worker.model.reading import Reading
from rerankq_worker.model.windows import (
    MOST_OVERLAP_TOKENS,
    Offsets,
    most_tokens,
    overlap_tokens,
    parts,
    windows,
)
from rerankq_worker.scoring import TokenIds

COUNTS = st.integers(1, 5_000)


@dataclass
class Numbered:
    """Tokens of two characters each, their ids being their places."""

    count: int

    @property
    def ids(self) -> TokenIds:
        return np.arange(self.count, dtype=np.int32)

    @property
    def offsets(self) -> Offsets:
        return np.array([(2 * place, 2 * place + 2) for place in range(self.count)], dtype=np.int32)


def reading(**asked: object) -> Reading:
    return Reading(query="q", documents=["d"], **asked)  # pyright: ignore[reportArgumentType]


def lengths(cut: Sequence[tuple[int, int]]) -> set[int]:
    return {end - start for start, end in cut}


@given(tokens=COUNTS, room=st.integers(1, 600))
def test_every_token_is_in_a_window_and_neighbours_overlap(tokens: int, room: int) -> None:
    cut = windows(tokens, room)

    assert cut[0][0] == 0
    assert cut[-1][1] == tokens
    assert len(lengths(cut)) == 1
    assert max(lengths(cut)) <= room
    assert all(end - start >= overlap_tokens(room) for (_, end), (start, _) in pairwise(cut))
    assert all(before[0] < after[0] for before, after in pairwise(cut))


@given(tokens=COUNTS, room=st.integers(1, 600))
def test_windows_are_as_few_as_hold_the_document(tokens: int, room: int) -> None:
    count = len(windows(tokens, room))

    assert most_tokens(reading(windows=True, max_windows_per_doc=count), room) >= tokens
    if count > 1:
        assert most_tokens(reading(windows=True, max_windows_per_doc=count - 1), room) < tokens


def test_the_overlap_is_an_eighth_of_the_room_and_at_most_two_or_three_sentences() -> None:
    assert [overlap_tokens(room) for room in (1, 8, 400, 8_000)] == [0, 1, 50, MOST_OVERLAP_TOKENS]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, 80),
        ({"max_tokens_per_doc": 20}, 20),
        ({"max_tokens_per_doc": 200}, 80),
        ({"windows": True, "max_windows_per_doc": 1}, 80),
        ({"windows": True, "max_windows_per_doc": 3}, 80 + 2 * 70),
        ({"windows": True, "max_windows_per_doc": 3, "max_tokens_per_doc": 100}, 100),
        ({"windows": True, "max_tokens_per_doc": 1_000}, 1_000),
    ],
    ids=str,
)
def test_a_document_is_read_up_to_the_nearest_limit(asked: dict[str, object], expected: int) -> None:
    assert most_tokens(reading(**asked), room=80) == expected


def test_all_of_a_document_is_read_where_nothing_limits_its_windows() -> None:
    assert most_tokens(reading(windows=True), room=80) > 10**9


def test_what_fits_is_one_part_without_a_span() -> None:
    [part] = parts(Numbered(80), room=80, limit=500)

    assert (len(part.ids), part.span) == (80, None)


def test_a_window_tells_its_place_and_its_characters() -> None:
    found = parts(Numbered(150), room=80, limit=500)

    told = [(part.span.index, part.span.total, part.span.start, part.span.end) for part in found if part.span]
    assert told == [(0, 2, 0, 160), (1, 2, 140, 300)]
    assert [(part.ids[0], part.ids[-1]) for part in found] == [(0, 79), (70, 149)]


def test_what_lies_behind_the_limit_is_in_no_window() -> None:
    found = parts(Numbered(500), room=80, limit=150)

    assert [part.ids[-1] for part in found] == [79, 149]
