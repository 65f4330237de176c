"""ModernBERT's scores are those of transformers' own, whatever its config says and whatever shares the batch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from rerankq_worker.engine import Engine, precision
from rerankq_worker.engine.attention import padded, per_row
from rerankq_worker.engine.linears import choose_linear, plain_linear
from rerankq_worker.engine.modernbert_model import ModernBertModel
from rerankq_worker.engine.precision import EXACT, Precision
from rerankq_worker.model.errors import NotPacked
from rerankq_worker.model.family import MODERNBERT
from tests.engine.definition import plain_model, random_rows
from tests.engine.test_engine_precision import COST_TOLERANCE, NEIGHBOUR_TOLERANCE, OFFERED
from tests.model_dirs import SHAPES, build_model_dir, config_of, modernbert_tokenizer, randomize_biases

CPU = torch.device("cpu")
LENGTHS = [300, 1, 2, 66, 66, 65, 129, 700, 3]
"""Within a window of 64 to each side, at its edge, and far beyond."""


def scaled(kind: str) -> dict[str, Any]:
    return {"rope_type": kind, "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 128}


CONFIGS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "mean of the tokens": {"classifier_pooling": "mean"},
    "biases": dict.fromkeys(["attention_bias", "mlp_bias", "norm_bias", "classifier_bias"], True),
    "mean and biases": {"classifier_pooling": "mean", "norm_bias": True, "classifier_bias": True},
    "a window of one": {"local_attention": 3},
    "no window at all": {"local_attention": 1},
    "last layer sees all": {"num_hidden_layers": 4},
    "one layer": {"num_hidden_layers": 1},
    "only windows": {"layer_types": ["sliding_attention"] * 3},
    "no windows": {"layer_types": ["full_attention"] * 3},
    "other activations": {"hidden_activation": "silu", "classifier_activation": "relu"},
    "names of before": {"global_rope_theta": 5e4, "local_rope_theta": 5e4, "global_attn_every_n_layers": 2},
    "stretched": {
        "rope_parameters": {"full_attention": scaled("yarn"), "sliding_attention": scaled("linear")}
    },
}


def tiny_modernbert(**changes: Any) -> torch.nn.Module:
    config = config_of("modernbert", SHAPES["tiny"], modernbert_tokenizer(), **changes)
    torch.manual_seed(7)
    model: torch.nn.Module = transformers.AutoModelForSequenceClassification.from_config(config)
    randomize_biases(model)
    return model


def packed(source: torch.nn.Module, held: Precision = EXACT) -> ModernBertModel:
    make_linear = choose_linear(CPU, held.weights, held.body)
    return ModernBertModel(source, MODERNBERT, CPU, held, make_linear, per_row)


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_rows_score_as_in_transformers(changes: dict[str, Any]) -> None:
    source, rows = tiny_modernbert(**changes), random_rows(LENGTHS)
    expected = plain_model(source)(rows)
    assert np.std(expected) > 0.2  # or any score would do

    got = packed(source)(rows).numpy()

    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=0)


def test_a_row_of_2048_tokens_scores_as_in_transformers() -> None:
    source, rows = tiny_modernbert(num_hidden_layers=2), random_rows([2048])
    expected = plain_model(source)(rows)

    np.testing.assert_allclose(packed(source)(rows).numpy(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_row_scores_the_same_whoever_shares_its_batch(pooling: str) -> None:
    model, rows = packed(tiny_modernbert(classifier_pooling=pooling)), random_rows(LENGTHS)
    alone = np.array([model([row]).item() for row in rows])

    np.testing.assert_allclose(model(rows).numpy(), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_pass_in_exact_arithmetic_gives_the_same(pooling: str) -> None:
    """What a card does with a row that overflowed in half precision; its linears are plain."""
    source, rows = tiny_modernbert(classifier_pooling=pooling), random_rows(LENGTHS)
    expected = plain_model(source)(rows)
    model = ModernBertModel(source, MODERNBERT, CPU, EXACT, plain_linear, padded)

    np.testing.assert_allclose(model.exactly(CPU, rows).numpy(), expected, atol=1e-4, rtol=0)


def test_angles_that_change_with_the_length_of_a_row_are_refused() -> None:
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    source = tiny_modernbert(rope_parameters={"full_attention": {**scaled("longrope"), **factors}})

    with pytest.raises(NotPacked, match="RERANKQ_ENGINE=sentence-transformers computes them"):
        packed(source)


def test_a_config_saved_by_transformers_4_is_read_as_it_was_meant(tmp_path: Path) -> None:
    """As those of gte-reranker-modernbert-base and its like are; transformers ignores what it does not know."""
    build_model_dir(tmp_path, "tiny", "modernbert", classifier_pooling="mean", local_attention=8)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["layer_types"], config["rope_parameters"]
    config |= {"global_rope_theta": 8e4, "local_rope_theta": 2e4, "global_attn_every_n_layers": 2}
    config |= {"layer_norm_eps": 1e-5, "position_embedding_type": "absolute", "reference_compile": False}
    (tmp_path / "config.json").write_text(json.dumps(config))

    rows = random_rows(LENGTHS)
    logits = Engine.load(tmp_path, device="cpu", dtype="fp32").score(rows)

    expected = plain_model(transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path))(rows)
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", OFFERED)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_precision_costs_what_it_costs_others(
    dtype: str, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bf16_pays", lambda: dtype == "bf16")
    source, rows = tiny_modernbert(classifier_pooling=pooling), random_rows(range(5, 125, 4))
    expected = plain_model(source)(rows)

    model = packed(source, precision.choose_precision(dtype.split()[0], CPU))

    together, alone = model(rows).numpy(), np.array([model([row]).item() for row in rows])
    assert np.abs(together - expected).mean() <= COST_TOLERANCE[dtype]
    assert np.abs(together - alone).max() <= NEIGHBOUR_TOLERANCE[dtype]
