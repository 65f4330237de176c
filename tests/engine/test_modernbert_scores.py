"""ModernBERT's scores are those of transformers' own, whatever its config says and whatever shares the batch."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from rerankq_worker.engine.attention import padded, per_row
from rerankq_worker.engine.linears import choose_linear, plain_linear
from rerankq_worker.engine.modernbert_model import ModernBertModel
from rerankq_worker.engine.precision import EXACT
from rerankq_worker.model.family import MODERNBERT
from tests.engine.definition import VOCABULARY, plain_model, random_rows

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
    "only windows": {"layer_types": ["sliding_attention"] * 2, "num_hidden_layers": 2},
    "no windows": {"layer_types": ["full_attention"] * 2, "num_hidden_layers": 2},
    "other activations": {"hidden_activation": "silu", "classifier_activation": "relu"},
    "names of before": {"global_rope_theta": 5e4, "local_rope_theta": 5e4, "global_attn_every_n_layers": 2},
    "stretched": {
        "rope_parameters": {"full_attention": scaled("yarn"), "sliding_attention": scaled("linear")}
    },
}


def tiny_modernbert(**changes: Any) -> "transformers.ModernBertForSequenceClassification":
    said = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
    special = dict.fromkeys(["bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"], 0)
    config = transformers.ModernBertConfig(
        **{
            **said,
            **special,
            "pad_token_id": 1,
            "vocab_size": VOCABULARY,
            "initializer_range": 0.6,
            **changes,
        },
        num_labels=1,
    )
    torch.manual_seed(7)
    model = transformers.ModernBertForSequenceClassification(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith(
                "bias"
            ):  # which start at 1 and 0: a forgotten one would not show
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def packed(source: torch.nn.Module) -> ModernBertModel:
    make_linear = choose_linear(CPU, EXACT.weights, EXACT.body)
    return ModernBertModel(source, MODERNBERT, CPU, EXACT, make_linear, per_row)


@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS)
def test_rows_score_as_in_transformers(changes: dict[str, Any]) -> None:
    source, rows = tiny_modernbert(**changes), random_rows(LENGTHS)
    expected = plain_model(source)(rows)
    assert np.std(expected) > 0.2  # or any score would do

    got = packed(source)(rows).numpy()

    np.testing.assert_allclose(got, expected, atol=1e-4, rtol=0)


def test_a_row_of_4096_tokens_scores_as_in_transformers() -> None:
    source, rows = tiny_modernbert(num_hidden_layers=2), random_rows([4096])
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
