"""The score by definition, and pairs and rows to hold the engine to it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

VOCABULARY = 200
"""Ids that every model of the tests has."""

Rows = Sequence[np.ndarray[Any, np.dtype[np.int32]]]
Plain = Callable[[Rows], np.ndarray[Any, Any]]

PAIRS = {
    "english": ("What is a panda?", "The giant panda is a bear species endemic to China."),
    "chinese": ("什么是大熊猫？", "大熊猫是中国特有的熊科动物，以竹子为食。"),
    "mixed": ("panda 是什么?", "The panda 大熊猫 eats bamboo 竹子。"),
    "emoji": ("🐼?", "👩‍👩‍👧‍👦 eats 🎋🎋🎋"),
    "right-to-left": ("مرحبا", "الباندا العملاقة שלום עולם"),
    "empty document": ("panda", ""),
    "blank document": ("panda", "   \n\t "),
    "one token each": ("a", "b"),
    "literal special tokens": ("<s> panda </s>", "<pad> <mask> </s></s> <s> <unk>"),
    "longer than 8192 tokens": ("panda", "bamboo " * 20_000),
    "query longer than its share": ("panda " * 20_000, "bamboo " * 20_000),
}


def plain_model(model: torch.nn.Module) -> Plain:
    """transformers' own model in fp32, one row at a time, no padding."""
    model.eval()

    @torch.inference_mode()
    def score(rows: Rows) -> np.ndarray[Any, Any]:
        inputs = [torch.from_numpy(row.astype(np.int64))[None] for row in rows]
        return np.array([model(input_ids=ids).logits.item() for ids in inputs], dtype=np.float32)

    return score


def random_rows(lengths: Sequence[int]) -> list[np.ndarray[Any, np.dtype[np.int32]]]:
    random = np.random.default_rng(sum(lengths))
    return [random.integers(4, VOCABULARY, size=n, dtype=np.int32) for n in lengths]
