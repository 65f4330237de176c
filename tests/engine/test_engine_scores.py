"""The score is transformers' own, to 1e-4 in the logit, whatever the text and whatever shares the batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from rerankq.contract.messages import RerankRequest
from rerankq_worker.engine import Engine
from rerankq_worker.engine.attention import per_row
from rerankq_worker.engine.linears import choose_linear
from rerankq_worker.engine.precision import EXACT
from rerankq_worker.engine.unpadded_model import UnpaddedModel
from rerankq_worker.job.ranking import rank
from rerankq_worker.model.family import XLM_ROBERTA
from rerankq_worker.model.reading import Reading
from rerankq_worker.model.tokenizer import PairTokenizer
from tests.engine.definition import PAIRS, VOCABULARY, Plain, plain_model, random_rows
from tests.model_dirs import CORPUS, SHAPES, randomize_biases, xlmr_config


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


def test_a_document_in_windows_scores_as_its_best_one(
    tiny: Engine, tiny_dir: Path, plain_logits: Plain
) -> None:
    reader, query = PairTokenizer.from_model_dir(tiny_dir, max_length_tokens=64), "What is a panda?"
    document = " ".join(CORPUS * 3)
    asked = RerankRequest(query=query, documents=["a bear", document], long_documents="windows")

    rows = reader.read(Reading(query=query, documents=asked.texts, windows=True))
    logits = tiny.score([row.token_ids for row in rows])
    ranked = {result.index: result for result in rank(asked, rows, logits, "sigmoid")}

    best = 1 + int(np.argmax(logits[1:]))
    window, span = ranked[1].window, rows[best].span
    assert window is not None
    assert span is not None
    assert (window.index, window.start, window.end) == (best - 1, span.start, span.end)
    assert (ranked[0].window, ranked[0].logit) == (None, logits[0])
    texts = [document[row.span.start : row.span.end] for row in rows if row.span is not None]
    alone = [row.token_ids for row in reader.read(Reading(query=query, documents=texts))]
    np.testing.assert_allclose(
        ranked[1].logit, max(plain_logits([row.token_ids for row in rows[1:]])), atol=1e-4
    )
    same = [np.array_equal(mine, row.token_ids) for mine, row in zip(alone, rows[1:], strict=True)]
    assert any(same), "no border is one of words"
    np.testing.assert_allclose(logits[1:][same], plain_logits(alone)[same], atol=1e-4)
