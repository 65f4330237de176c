"""Weights that are not those of the model that config.json describes: refused, with what they seem to be.

transformers would go on: with random numbers for what is missing, and without what it has no place for. Knows names.
"""

import difflib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankq_worker.model.family import Family
from rerankq_worker.model.files import ModelBroken, weight_files

BUFFERS = ("position_ids", "token_type_ids", "inv_freq", "masked_bias", ".attn.bias")
LAYER = re.compile(r"^(.*?\.)\d+\.")
"""What stands before the number of a layer."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What must be known of a class of transformers to tell what its weights lack."""

    name: str
    head: Collection[str]
    """The modules without which a model gives vectors, not scores."""
    counts: Callable[[str], bool]
    """Whether a tensor of this name, for which there is no place, would have been a part of the score."""

    @classmethod
    def of_family(cls, family: Family) -> "Architecture":
        """Of one that the packed engine computes."""
        return cls(
            family.architecture,
            family.head,
            lambda name: name.startswith(family.weights) and not name.endswith(BUFFERS),
        )

    @classmethod
    def of_model(cls, model: Any) -> "Architecture":
        """Of any model of transformers: what counts are layers beyond those it has."""
        names: list[str] = list(model.state_dict())
        base = f"{model.base_model_prefix}."
        layers = {found[1] for found in map(LAYER.match, names) if found}

        def counts(name: str) -> bool:
            found = LAYER.match(name)
            return found is not None and found[1] in layers and not name.endswith(BUFFERS)

        head = {name.rpartition(".")[0] for name in names if not name.startswith(base)}
        return cls(type(model).__name__, head, counts)


def refuse_unfit(
    directory: Path,
    missing: Collection[str],
    unexpected: Collection[str],
    mismatched: Collection[tuple[str, Any, Any]],
    model: "Architecture",
) -> None:
    """What transformers reports of loading weights, taken seriously.

    Raises:
        ModelBroken: some weights are missing, of another shape, or left out.
    """
    if missing:
        why = _why(directory, model, missing, unexpected)
        raise ModelBroken(f"{directory} lacks weights: {_told(sorted(missing))}{why}")
    if mismatched:
        name, found, wanted = min(mismatched)
        raise ModelBroken(
            f"{directory}: the weights hold {name} in the shape {list(found)}, config.json makes it {list(wanted)}; "
            "take both from the same checkpoint"
        )
    left_out = sorted(name for name in unexpected if model.counts(name) or "lora_" in name)
    if left_out:
        raise ModelBroken(
            f"{directory}: the weights hold {_told(left_out)}, for which the model of config.json has no place; "
            "take both from the same checkpoint, with adapters merged"
        )


def _why(directory: Path, model: Architecture, missing: Collection[str], unexpected: Collection[str]) -> str:
    prefix = _common_prefix(missing, unexpected)
    if prefix:
        files = [str(file) for file in weight_files(directory)]
        return (
            f'; their names begin with {prefix!r}, rename them: python -c "from safetensors.torch import *; '
            f"[save_file({{k.removeprefix('{prefix}'): v for k, v in load_file(f).items()}}, f, {{'format': 'pt'}}) "
            f'for f in {files}]"'
        )
    if {name.rpartition(".")[0] for name in missing} <= set(model.head):
        return (
            "; a model without its head gives vectors, not scores (an embedding model?): "
            "give a reranker, such as BAAI/bge-reranker-v2-m3"
        )
    if unexpected:
        (alike,) = difflib.get_close_matches(min(missing), unexpected, n=1, cutoff=0)
        return (
            f"; it names them otherwise ({alike}), as code of its own would: "
            f"give a model saved by transformers' own {model.name}"
        )
    return "; save or fetch the whole model once more"


def _common_prefix(missing: Collection[str], unexpected: Collection[str]) -> str:
    """What stands before every missing name among the unexpected ones; empty where nothing does."""
    first = min(missing)
    prefixes = (name.removesuffix(first) for name in sorted(unexpected) if name.endswith(first))
    there = set(unexpected)
    return next((prefix for prefix in prefixes if all(prefix + name in there for name in missing)), "")


def _told(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")
