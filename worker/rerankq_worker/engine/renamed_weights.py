"""Weights under the names of other code, flash-attn's BERT, in which jina-reranker-v2 is written: as transformers names
them. Knows names and how query, key and value lie in one tensor; the code itself is never run.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from rerankq_worker.model.files import weight_files

FUSED = re.compile(r"(.+\.encoder)\.layers(\.\d+)\.mixer\.Wqkv\.(weight|bias)")
"""Query, key and value of a layer, one above the other."""
RENAMED = (
    (".emb_ln.", ".embeddings.LayerNorm."),
    (".encoder.layers.", ".encoder.layer."),
    (".mixer.out_proj.", ".attention.output.dense."),
    (".norm1.", ".attention.output.LayerNorm."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
    (".norm2.", ".output.LayerNorm."),
)


def renamed_weights(directory: Path) -> dict[str, Tensor] | None:
    """All weights of a directory by transformers' names; None where they have these already."""
    files = weight_files(directory)
    if not any(FUSED.fullmatch(name) for file in files for name in _names(file)):
        return None
    return {name: tensor for file in files for name, tensor in _renamed(file)}


def _names(file: Path) -> list[str]:
    with safe_open(file, "pt") as weights:
        return list(weights.keys())


def _renamed(file: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, "pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - it is no dictionary
            tensor: Tensor = weights.get_tensor(name)
            fused = FUSED.fullmatch(name)
            if fused is None:
                yield _plain(name), tensor
                continue
            body, number, kind = fused.groups()
            for part, of_part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                yield f"{body}.layer{number}.attention.self.{part}.{kind}", of_part


def _plain(name: str) -> str:
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours)
    return name
