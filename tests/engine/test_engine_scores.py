"""The score is transformers' own, to 1e-4 in the logit, whatever the text and whatever shares the batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rerankq_worker.engine import Engine

Plain = Callable[[Any], np.ndarray[Any, Any]]

PAIRS = [
    pytest.param("What is a panda?", "The giant panda is a bear species endemic to China.", id="english"),
    pytest.param("什么是大熊猫？", "大熊猫是中国特有的熊科动物，以竹子为食。", id="chinese"),
    pytest.param("panda 是什么?", "The panda 大熊猫 eats bamboo 竹子。", id="mixed"),
    pytest.param("🐼?", "👩‍👩‍👧‍👦 eats 🎋🎋🎋", id="emoji"),
    pytest.param("مرحبا", "الباندا العملاقة שלום עולם", id="right-to-left"),
    pytest.param("panda", "", id="empty document"),
    pytest.param("panda", "   \n\t ", id="blank document"),
    pytest.param("a", "b", id="one token each"),
    pytest.param("<s> panda </s>", "<pad> <mask> </s></s> <s> <unk>", id="literal special tokens"),
    pytest.param("panda", "bamboo " * 20_000, id="longer than 8192 tokens"),
    pytest.param("panda " * 20_000, "bamboo " * 20_000, id="query longer than its share"),
]


@pytest.mark.parametrize(("query", "document"), PAIRS)
def test_a_pair_scores_as_in_transformers(
    tiny: Engine, plain_logits: Plain, query: str, document: str
) -> None:
    rows = [row.token_ids for row in tiny.tokenizer.rows(query, [document])]

    got = tiny.score(rows)

    np.testing.assert_allclose(got, plain_logits(rows), atol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 3, 17, 128, 511, 1024, 8192])
def test_a_row_of_any_length_scores_as_in_transformers(
    tiny: Engine, plain_logits: Plain, length: int
) -> None:
    rows = [np.random.default_rng(length).integers(4, 180, size=length, dtype=np.int32)]

    np.testing.assert_allclose(tiny.score(rows), plain_logits(rows), atol=1e-4)


def test_a_batch_of_mixed_lengths_scores_as_in_transformers(tiny: Engine, plain_logits: Plain) -> None:
    random = np.random.default_rng(1)
    rows = [random.integers(4, 180, size=n, dtype=np.int32) for n in (90, 90, 3, 41, 41, 41, 200, 1)]

    np.testing.assert_allclose(tiny.score(rows), plain_logits(rows), atol=1e-4)


def test_pairs_come_back_in_the_order_given(tiny: Engine) -> None:
    pairs = [("panda", "bear " * n) for n in (3, 40, 1, 17)] + [("bamboo", "bear"), ("panda", "bear " * 3)]

    together = tiny.score_pairs(pairs)

    alone = np.array([tiny.score_pairs([pair])[0] for pair in pairs])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_no_pairs_give_no_logits(tiny: Engine) -> None:
    assert tiny.score_pairs([]).shape == (0,)
    assert tiny.score([]).shape == (0,)
