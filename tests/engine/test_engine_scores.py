"""The score is transformers' own, to 1e-4 in the logit, whatever the text and whatever shares the batch."""

import numpy as np
import pytest
import torch
import transformers

from rerankq_worker.engine import Engine
from rerankq_worker.engine.attention import per_row
from rerankq_worker.engine.linears import choose_linear
from rerankq_worker.engine.precision import EXACT
from rerankq_worker.engine.unpadded_model import UnpaddedModel
from rerankq_worker.model.family import XLM_ROBERTA
from rerankq_worker.model.reading import Reading
from tests.engine.definition import PAIRS, VOCABULARY, Plain, plain_model, random_rows
from tests.model_dirs import SHAPES, randomize_biases, xlmr_config


@pytest.mark.parametrize(("query", "document"), list(PAIRS.values()), ids=list(PAIRS))
def test_a_pair_scores_as_in_transformers(
    engine_and_plain: tuple[Engine, Plain], query: str, document: str
) -> None:
    engine, plain = engine_and_plain
    rows = [row.token_ids for row in engine.tokenizer.read(Reading(query=query, documents=[document]))]

    got = engine.score(rows)

    np.testing.assert_allclose(got, plain(rows), atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 3, 17, 128, 511, 1024, 8192])
def test_a_row_of_any_length_scores_as_in_transformers(
    engine_and_plain: tuple[Engine, Plain], length: int
) -> None:
    engine, plain = engine_and_plain
    rows = random_rows([min(length, engine.info.max_length_tokens)])

    np.testing.assert_allclose(engine.score(rows), plain(rows), atol=1e-4, rtol=0)


def test_a_batch_of_mixed_lengths_scores_as_in_transformers(engine_and_plain: tuple[Engine, Plain]) -> None:
    engine, plain = engine_and_plain
    rows = random_rows([90, 90, 3, 41, 41, 41, 200, 1])

    np.testing.assert_allclose(engine.score(rows), plain(rows), atol=1e-4, rtol=0)


def test_the_true_shape_scores_as_in_transformers() -> None:
    """24 layers of 1,024, random weights; `benchmarks.exactness` goes on to 8,192 tokens, which takes minutes."""
    source = transformers.XLMRobertaForSequenceClassification(xlmr_config(SHAPES["true-shape"], VOCABULARY))
    randomize_biases(source)
    rows = random_rows([1, 2, 17, 60, 60, 190])
    expected = plain_model(source)(rows)
    assert np.std(expected) > 0.01  # or any score would do

    cpu = torch.device("cpu")
    model = UnpaddedModel(
        source, XLM_ROBERTA, cpu, EXACT, choose_linear(cpu, EXACT.weights, EXACT.body), per_row
    )

    np.testing.assert_allclose(model(rows).numpy(), expected, atol=1e-4, rtol=0)


def test_pairs_come_back_in_the_order_given(tiny: Engine) -> None:
    pairs = [("panda", "bear " * n) for n in (3, 40, 1, 17)] + [("bamboo", "bear"), ("panda", "bear " * 3)]

    together = tiny.score_pairs(pairs)

    alone = np.array([tiny.score_pairs([pair])[0] for pair in pairs])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_no_pairs_give_no_logits(tiny: Engine) -> None:
    assert tiny.score_pairs([]).shape == (0,)
    assert tiny.score([]).shape == (0,)
