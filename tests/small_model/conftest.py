"""The small model, written once for these tests, and a plain transformers scorer around it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import transformers

from rerankq_worker.model.small import materialise

Scorer = Callable[[str, Sequence[str]], list[float]]


@pytest.fixture(scope="session")
def small_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return materialise(tmp_path_factory.mktemp("small-model"))


@pytest.fixture(scope="session")
def scorer_for(small_model_dir: Path) -> Callable[..., Scorer]:
    """Makes a scorer of a data type and an attention implementation: logits of a query against documents."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(small_model_dir)

    def make(dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> Scorer:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            small_model_dir, dtype=dtype, attn_implementation=attention
        ).eval()

        def score(query: str, documents: Sequence[str]) -> list[float]:
            pairs = tokenizer(
                [query] * len(documents),
                list(documents),
                padding=True,
                truncation="only_second",
                return_tensors="pt",
            )
            with torch.no_grad():
                return model(pairs["input_ids"], pairs["attention_mask"]).logits[:, 0].float().tolist()

        return score

    return make


@pytest.fixture(scope="session")
def score(scorer_for: Callable[..., Scorer]) -> Scorer:
    return scorer_for()
