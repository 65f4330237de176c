"""The small model's golden scores: the fixture of every test of exactness."""

import json
from collections.abc import Callable
from importlib.resources import files

import pytest
import torch

from rerankq_worker.model.small import WEIGHTS_SHA256

GOLDEN = json.loads(files("rerankq_worker.model.small").joinpath("golden.json").read_text("utf-8"))


def test_the_golden_scores_belong_to_the_pinned_weights():
    assert GOLDEN["weights_sha256"] == WEIGHTS_SHA256


@pytest.mark.parametrize(
    ("precision", "dtype", "attention"),
    [
        pytest.param("fp32", torch.float32, "sdpa", id="fp32 sdpa"),
        pytest.param("fp32", torch.float32, "eager", id="fp32 eager"),
        pytest.param("fp16", torch.float16, "sdpa", id="fp16 sdpa"),
        pytest.param("bf16", torch.bfloat16, "sdpa", id="bf16 sdpa"),
        pytest.param("bf16", torch.bfloat16, "eager", id="bf16 eager"),
    ],
)
def test_every_precision_and_backend_gives_the_golden_scores(
    scorer_for: Callable[..., Callable[..., list[float]]], precision: str, dtype: torch.dtype, attention: str
):
    score = scorer_for(dtype, attention)

    got = [score(pair["query"], [pair["document"]])[0] for pair in GOLDEN["pairs"]]

    assert got == pytest.approx(
        [pair["logit"] for pair in GOLDEN["pairs"]], abs=GOLDEN["tolerance"][precision], rel=0
    )
