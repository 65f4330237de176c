"""The laws of the parts that do no I/O: packs, spans, quality, estimates, the meter."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankq.bulk.dry_run import estimated_tokens
from rerankq.bulk.evaluate import Evaluator
from rerankq.bulk.formats.fields import grades
from rerankq.bulk.output.sidecar import with_span
from rerankq.bulk.output.tally import Tally
from rerankq.bulk.progress import Meter, in_words
from rerankq.bulk.rows import Entry, Row
from rerankq.bulk.sending.packing import PackSize, cut
from rerankq.bulk.sending.patience import Patience
from rerankq.contract.errors import BrokerUnavailable
from rerankq.contract.messages import Ranking, RerankRequest
from tests.bulk.answering import ranking

SIZE = PackSize(max_pairs=10, max_bytes=1000, max_rows=5)

sizes = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 1500)), max_size=40)


def entry(position: int, documents: int, size_bytes: int = 0) -> Entry:
    request = RerankRequest(query="q", documents=["d"] * documents) if documents else None
    return Entry(position, Row(source={}, size_bytes=size_bytes), request)


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


def judged(position: int, relevant: dict[str, float], texts: list[str]) -> tuple[Entry, Ranking]:
    documents = [{"id": f"d{place}", "text": text} for place, text in enumerate(texts)]
    request = RerankRequest.model_validate({"query": "q", "documents": documents})
    answer = ranking("j", {"documents": documents})
    row = Row(source={}, relevant=relevant)
    return Entry(position, row, request), Ranking.model_validate(answer)


def test_quality_is_that_of_trec_eval_before_and_after() -> None:
    pytest.importorskip("ir_measures")
    good = judged(0, {"d2": 1}, ["a", "bb", "ccc"])
    half = judged(1, {"d0": 2, "d1": 1}, ["a", "bb", "ccc"])
    unjudged = judged(2, {}, ["a"])

    quality = Evaluator().quality([good, half, unjudged])

    assert quality.queries == 2
    assert quality.mrr_before == pytest.approx(1 / 3 + 1)
    assert quality.mrr_after == pytest.approx(1 + 1 / 2)
    ideal = 2 + 1 / 1.5849625007
    assert quality.ndcg_after == pytest.approx(1 + (1 / 1.5849625007 + 2 / 2) / ideal)
    assert quality.ndcg_before == pytest.approx(0.5 + 1)


def test_mrr_counts_from_the_grade_that_is_named() -> None:
    pytest.importorskip("ir_measures")
    row = judged(0, {"d0": 2, "d2": 1}, ["a", "bb", "ccc"])

    from_one, from_two = (Evaluator(relevant_from=grade).quality([row]) for grade in (1, 2))

    assert (from_one.mrr_before, from_one.mrr_after) == pytest.approx((1, 1))
    assert (from_two.mrr_before, from_two.mrr_after) == pytest.approx((1, 1 / 3))
    assert from_two.ndcg_after == pytest.approx(from_one.ndcg_after)


JUDGEMENTS: dict[str, tuple[Any, dict[str, float] | None]] = {
    "grades": ({"a": 2, "b": 0}, {"a": 2.0, "b": 0.0}),
    "a struct with nulls": ({"a": 1, "b": None}, {"a": 1.0}),
    "grades as text": ({"a": "1"}, {"a": 1.0}),
    "ids": (["a", 7], {"a": 1.0, "7": 1.0}),
    "JSON text": ('{"a": 1}', {"a": 1.0}),
    "no finite grade": ({"a": "1e999"}, None),
    "anything else": ("no JSON", None),
}


@pytest.mark.parametrize(("given", "grades_"), JUDGEMENTS.values(), ids=JUDGEMENTS)
def test_judgements_are_read_in_each_form_that_rows_have_them_in(
    given: Any, grades_: dict[str, float] | None
) -> None:
    assert grades(given) == grades_


def test_tokens_are_estimated_from_characters_and_cut_at_the_models_length() -> None:
    english = RerankRequest(query="q" * 42, documents=["word " * 84, "x" * 84_000])
    chinese = RerankRequest(query="中" * 10, documents=["文" * 125])

    assert estimated_tokens(english) == (100 + (1024 - 14) + 2 * 14, 1)
    assert estimated_tokens(chinese) == (100 + 8 + 4, 0)


def test_the_time_left_is_told_from_the_pace_since_this_run_began() -> None:
    now = [0.0]
    meter = Meter(Tally(rows=400, pairs=4000), lambda: now[0])
    meter.snapshot(Tally(rows=400, pairs=4000), None, 1000, 2, 1)
    now[0] = 10.0

    snapshot = meter.snapshot(Tally(rows=500, pairs=5000), None, 1000, 2, 1)

    assert snapshot.pairs_per_second == pytest.approx(100)
    assert snapshot.eta_seconds == pytest.approx(50)
    assert in_words(snapshot) == (
        "500 of 1,000 jobs, 100 pairs/s, 0:00:50 left, 0 failed, 2 packs in flight, 1 worker"
    )


def test_patience_ends_with_the_failure_itself_and_begins_anew_after_a_success() -> None:
    away, patience = BrokerUnavailable("away"), Patience(0.0)

    with pytest.raises(BrokerUnavailable, match="away"):
        patience.failed(away)
    longer = Patience(60.0)
    pauses = [longer.failed(away) for _ in range(3)]
    longer.succeeded()

    assert pauses == [0.1, 0.2, 0.4]
    assert longer.failed(away) == 0.1
