"""From logits to an order: best first, ties as they came, the unscored last."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankq.contract.messages import RankedDocument, RerankRequest
from rerankq_worker.job.ranking import rank
from rerankq_worker.model.reading import Row, Span
from rerankq_worker.model.scales import sigmoid


def request_of(count: int, **fields: object) -> RerankRequest:
    return RerankRequest.model_validate(
        {"query": "q", "documents": [f"d{i}" for i in range(count)], **fields}
    )


def ranked(logits: list[float], **fields: object) -> list[int]:
    request = request_of(len(logits), **fields)
    return [result.index for result in results(request, logits)]


def results(request: RerankRequest, logits: list[float], *, truncated: bool = False) -> list[RankedDocument]:
    rows = [Row(np.ones(1, dtype=np.int32), truncated, document) for document in range(len(logits))]
    return rank(request, rows, np.array(logits, dtype=np.float32), "sigmoid")


@given(st.lists(st.sampled_from([-3.0, 0.0, 0.5, 8.0, math.nan]), min_size=1, max_size=20))
def test_best_first_ties_as_they_came_unscored_last(logits: list[float]) -> None:
    expected = sorted(
        range(len(logits)), key=lambda i: (math.isnan(logits[i]), -logits[i] if logits[i] == logits[i] else 0)
    )

    assert ranked(logits) == expected


def test_top_n_keeps_the_best() -> None:
    assert ranked([0.0, 3.0, 1.0], top_n=2) == [1, 2]
    assert ranked([0.0, 3.0], top_n=9) == [1, 0]


def test_logits_too_large_for_the_sigmoid_still_order() -> None:
    assert ranked([40.0, 50.0, 45.0]) == [1, 2, 0]


def test_an_unscored_document_has_no_invented_score() -> None:
    result = results(request_of(1), [math.nan])[0]

    assert (result.relevance_score, result.logit, result.scored) == (None, None, False)


def test_raw_scores_are_logits() -> None:
    result = results(request_of(1, raw_scores=True), [-7.5], truncated=True)[0]

    assert (result.relevance_score, result.logit, result.truncated) == (-7.5, -7.5, True)


@pytest.mark.parametrize("logit", [-1e4, -88.0, 0.0, 88.0, 1e4])
def test_the_sigmoid_overflows_at_neither_end(logit: float) -> None:
    assert 0.0 <= sigmoid(logit) <= 1.0
    assert sigmoid(logit) + sigmoid(-logit) == pytest.approx(1.0)


def test_a_document_in_windows_has_the_score_of_its_best_one() -> None:
    rows = [_window(0, 0, 2), _window(0, 1, 2), _window(1, 0, 1), _window(2, 0, 2), _window(2, 1, 2)]
    logits = np.array([-1.0, 3.0, 2.0, 5.0, math.nan], dtype=np.float32)

    got = rank(request_of(3), rows, logits, "identity")

    assert [(r.index, r.relevance_score, r.window and r.window.index) for r in got] == [
        (0, 3.0, 1),
        (1, 2.0, 0),
        (2, None, None),  # one of its windows is not scored: its best is not known
    ]


def _window(document: int, index: int, total: int) -> Row:
    return Row(np.ones(1, dtype=np.int32), False, document, Span(index, total, 10 * index, 10 * index + 10))


@pytest.mark.parametrize(
    ("raw", "threshold", "kept"), [(False, 0.9, [2]), (True, 0.5, [2, 0])], ids=["of scores", "of logits"]
)
def test_results_below_the_threshold_are_left_out(raw: bool, threshold: float, kept: list[int]) -> None:
    assert ranked([0.5, -3.0, 4.0], score_threshold=threshold, raw_scores=raw) == kept
