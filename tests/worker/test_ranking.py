"""From logits to an order: best first, ties as they came, the unscored last."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankq.contract.messages import RerankRequest
from rerankq_worker.job.ranking import rank, sigmoid


def request_of(count: int, **fields: object) -> RerankRequest:
    return RerankRequest.model_validate(
        {"query": "q", "documents": [f"d{i}" for i in range(count)], **fields}
    )


def ranked(logits: list[float], **fields: object) -> list[int]:
    request = request_of(len(logits), **fields)
    return [r.index for r in rank(request, np.array(logits, dtype=np.float32), [False] * len(logits))]


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
    result = rank(request_of(1), np.array([math.nan], dtype=np.float32), [False])[0]

    assert (result.relevance_score, result.logit, result.scored) == (None, None, False)


def test_raw_scores_are_logits() -> None:
    result = rank(request_of(1, raw_scores=True), np.array([-7.5], dtype=np.float32), [True])[0]

    assert (result.relevance_score, result.logit, result.truncated) == (-7.5, -7.5, True)


@pytest.mark.parametrize("logit", [-1e4, -88.0, 0.0, 88.0, 1e4])
def test_the_sigmoid_overflows_at_neither_end(logit: float) -> None:
    assert 0.0 <= sigmoid(logit) <= 1.0
    assert sigmoid(logit) + sigmoid(-logit) == pytest.approx(1.0)
