"""A ranking in a program's hands: a sequence of its results, their texts, rows, and a repr worth reading."""

from typing import Any

import pytest

from rerankq import InvalidRequest, Ranking

TEXTS = ["a bird", "all about pandas\nand  bamboo, told at some length so that it is cut", "a fish"]


def ranking(*order: int, **fields: Any) -> Ranking:
    results = [
        {"index": index, "relevance_score": 0.9 - n / 10, "logit": 2.0 - n} for n, index in enumerate(order)
    ]
    told = {"id": "j", "model": {"name": "m", "revision": "r"}, "complete": True, "scored": 3, "total": 3,
            "usage": {}, "timings": {}, "worker": {"name": "w", "device": "cpu", "dtype": "fp32"}}  # fmt: skip
    return Ranking.model_validate({**told, "results": results, **fields})


def test_a_ranking_is_a_sequence_of_its_results() -> None:
    ranked = ranking(1, 0, 2)

    assert len(ranked) == 3
    assert [result.index for result in ranked] == [1, 0, 2]
    assert (ranked[0].index, ranked[-1].index) == (1, 2)
    assert [result.index for result in ranked[:2]] == [1, 0]


@pytest.mark.parametrize(
    "documents", [TEXTS, tuple(TEXTS), [{"text": text, "id": 7} for text in TEXTS], iter(TEXTS)]
)
def test_its_texts_come_from_the_documents_that_were_asked(documents: Any) -> None:
    assert ranking(2, 0).texts(documents) == ["a fish", "a bird"]


def test_its_texts_come_from_what_was_sent_back() -> None:
    assert ranking(2, 0).with_documents(TEXTS).texts() == ["a fish", "a bird"]


@pytest.mark.parametrize(
    ("documents", "told"),
    [(None, "return_documents=True"), (TEXTS[:2], "expected the 3 that were asked, got 2")],
)
def test_texts_that_cannot_be_told_are_refused_with_the_way_out(documents: Any, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        ranking(2, 0).texts(documents)


def test_its_rows_make_a_table() -> None:
    first, second = ranking(1, 0).rows()

    assert (first["rank"], first["index"], first["logit"], first["id"]) == (1, 1, 2.0, None)
    assert (second["rank"], second["index"], list(second)) == (2, 0, list(first))


def test_its_repr_tells_the_order_and_cuts_texts() -> None:
    shown = repr(ranking(1, 0, 2).with_documents(TEXTS)).splitlines()

    assert shown == [
        "Ranking of 3 documents, 3 scored by m on cpu fp32",
        "   1  0.9000  [1]  all about pandas and bamboo, told at som…",
        "   2  0.8000  [0]  a bird",
        "   3  0.7000  [2]  a fish",
    ]
    assert "length" not in repr(ranking(1).with_documents(TEXTS)[0])


def test_its_repr_is_short_and_knows_what_was_not_scored() -> None:
    results = [{"index": n, "relevance_score": None, "logit": None} for n in range(50)]

    shown = repr(ranking(results=results, scored=0, total=50)).splitlines()

    assert len(shown) == 12
    assert (shown[1], shown[-1]) == ("   1       -  [0]", "   … and 40 more")
