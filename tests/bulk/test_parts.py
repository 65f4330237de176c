"""The laws of the parts that do no I/O: packs, spans, estimates, the meter."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankq.bulk.output.sidecar import with_span
from rerankq.bulk.output.totals import Totals
from rerankq.bulk.progress import Meter, in_words
from rerankq.bulk.rows import Entry, InputRow
from rerankq.bulk.sending.packing import cut
from rerankq.bulk.sending.retry_budget import RetryBudget
from rerankq.contract.errors import BrokerUnavailable
from rerankq.contract.messages import RerankRequest
from rerankq.estimates import Amount, amount_of, pairs_of
from rerankq.packing import PackSize

SIZE = PackSize(max_pairs=10, max_bytes=1000, max_rows=5)

sizes = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 1500)), max_size=40)


def entry(position: int, documents: int, size_bytes: int = 0) -> Entry:
    request = RerankRequest(query="q", documents=["d"] * documents) if documents else None
    return Entry(position, InputRow(source={}, size_bytes=size_bytes), request)


@given(sizes)
def test_packs_hold_every_row_once_and_in_order(rows: list[tuple[int, int]]) -> None:
    entries = [entry(position, *row) for position, row in enumerate(rows)]

    assert [one for pack in cut(entries, SIZE) for one in pack.entries] == entries


@given(sizes)
def test_a_pack_is_within_its_budget_or_a_single_row(rows: list[tuple[int, int]]) -> None:
    for pack in cut((entry(position, *row) for position, row in enumerate(rows)), SIZE):
        within = (
            sum(one.pairs for one in pack.entries) <= SIZE.max_pairs and pack.size_bytes <= SIZE.max_bytes
        )
        assert len(pack.entries) == 1 or (within and len(pack.entries) <= SIZE.max_rows)


@given(sizes, st.data())
def test_a_run_resumed_at_a_packs_end_cuts_the_same_packs(rows: list[tuple[int, int]], data: Any) -> None:
    entries = [entry(position, *row) for position, row in enumerate(rows)]
    packs = list(cut(entries, SIZE))
    done = data.draw(st.integers(0, len(packs)))
    start = packs[done - 1].stop if done else 0

    assert list(cut(entries[start:], SIZE)) == packs[done:]


@given(st.permutations(range(12)))
def test_spans_in_any_order_join_to_one(order: list[int]) -> None:
    done: list[tuple[int, int]] = []
    for place in order:
        done = with_span(done, (3 * place, 3 * place + 3))
        assert all(left[1] < right[0] for left, right in pairwise(done))

    assert done == [(0, 36)]


def test_tokens_are_estimated_from_characters_and_cut_at_the_models_length() -> None:
    english = RerankRequest(query="q" * 42, documents=["word " * 84, "x" * 84_000])
    chinese = RerankRequest(query="中" * 10, documents=["文" * 125])

    assert amount_of(english) == Amount(2, 100 + (1024 - 14) + 2 * 14, 1)
    assert amount_of(chinese) == Amount(1, 100 + 8 + 4, 0)


@pytest.mark.parametrize(
    ("asked", "pairs", "truncated"),
    [
        ({}, 2, 1),
        ({"long_documents": "windows"}, 12, 0),
        ({"max_windows_per_doc": 5}, 6, 1),
        ({"long_documents": "windows", "max_tokens_per_doc": 1_500}, 3, 1),
    ],
    ids=str,
)
def test_a_document_in_windows_weighs_as_many_pairs(
    asked: dict[str, Any], pairs: int, truncated: int
) -> None:
    request = RerankRequest.model_validate(
        {"query": "q", "documents": ["a short one", "x" * 42_000], **asked}
    )

    assert (amount_of(request).pairs, pairs_of(request)) == (pairs, pairs)
    assert amount_of(request).truncated_documents == truncated


def test_the_time_left_is_told_from_the_pace_since_this_run_began() -> None:
    now = [0.0]
    meter = Meter(Totals(rows=400, pairs=4000), lambda: now[0])
    meter.snapshot(Totals(rows=400, pairs=4000), None, 1000, 2, 1)
    now[0] = 10.0

    snapshot = meter.snapshot(Totals(rows=500, pairs=5000), None, 1000, 2, 1)

    assert snapshot.pairs_per_second == pytest.approx(100)
    assert snapshot.eta_seconds == pytest.approx(50)
    assert in_words(snapshot) == (
        "500 of 1,000 jobs, 100 pairs/s, 0:00:50 left, 0 failed, 2 packs in flight, 1 worker"
    )


@pytest.mark.parametrize(
    ("paused", "words"),
    [
        ({None}, ["the bulk lane is paused (`rerankq resume bulk`)"]),
        (
            {"org/b", "org/a"},
            [
                f"the bulk lane of {m} is paused (`rerankq resume bulk --model {m}`)"
                for m in ("org/a", "org/b")
            ],
        ),
        (set[None](), []),
    ],
    ids=["the lane", "two models of it", "nothing"],
)
def test_what_is_paused_is_named_with_what_ends_it(paused: set[str | None], words: list[str]) -> None:
    snapshot = Meter(Totals()).snapshot(Totals(), None, None, 2, 1, paused_models=frozenset(paused))

    assert in_words(snapshot).split(", ")[5:] == words


def test_a_retry_budget_ends_with_the_failure_itself_and_begins_anew_after_a_success() -> None:
    away, budget = BrokerUnavailable("away"), RetryBudget(0.0)

    with pytest.raises(BrokerUnavailable, match="away"):
        budget.failed(away)
    longer = RetryBudget(60.0)
    pauses = [longer.failed(away) for _ in range(3)]
    longer.succeeded()

    assert pauses == [0.1, 0.2, 0.4]
    assert longer.failed(away) == 0.1
