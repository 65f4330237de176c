"""Fixtures of the engine's tests: one tiny model, its engine, and transformers' own answer for a list of rows."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from rerankq_worker.engine import Engine
from tests.model_dirs import build_model_dir


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_dir(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_dir: Path) -> Engine:
    return Engine.load(tiny_dir, device="cpu", dtype="fp32", max_length_tokens=8192)


@pytest.fixture(scope="session")
def plain_logits(tiny_dir: Path) -> Callable[[Sequence[np.ndarray[Any, Any]]], np.ndarray[Any, Any]]:
    """transformers in fp32, one row at a time, no padding: the definition."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_dir, dtype=torch.float32).eval()

    @torch.inference_mode()
    def score(rows: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        inputs = [torch.from_numpy(row.astype(np.int64))[None] for row in rows]
        return np.array([model(input_ids=ids).logits.item() for ids in inputs], dtype=np.float32)

    return score


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared test data, beside the checkout or where RERANKQ_SHARED says."""
    folder = Path(os.environ.get("RERANKQ_SHARED") or Path(__file__).parents[2].parent / "shared") / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder
