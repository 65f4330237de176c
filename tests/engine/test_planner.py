"""Batches hold every row once, within pairs and tokens, longest first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankq_worker.engine.planner import plan


@given(
    lengths=st.lists(st.integers(1, 500), max_size=60),
    max_pairs=st.integers(1, 9),
    max_tokens=st.integers(1, 900),
)
def test_every_row_is_in_exactly_one_batch_within_budget(
    lengths: list[int], max_pairs: int, max_tokens: int
) -> None:
    batches = plan(lengths, max_pairs, max_tokens)

    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= max_pairs
        assert len(batch) == 1 or sum(lengths[index] for index in batch) <= max_tokens


def test_longest_rows_come_first_and_equal_ones_keep_their_order() -> None:
    assert plan([5, 9, 5, 7], max_pairs=2, max_tokens=100) == [[1, 3], [0, 2]]


def test_a_row_longer_than_the_budget_travels_alone() -> None:
    assert plan([3, 50, 3], max_pairs=8, max_tokens=10) == [[1], [0, 2]]


@pytest.mark.parametrize(("max_pairs", "max_tokens"), [(0, 10), (3, 0)], ids=["no pairs", "no tokens"])
def test_an_empty_budget_is_refused(max_pairs: int, max_tokens: int) -> None:
    with pytest.raises(ValueError, match="at least 1 pair and 1 token"):
        plan([1], max_pairs, max_tokens)
