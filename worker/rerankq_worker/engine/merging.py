"""Merge an adapter with the weights that it was trained on: a program of its own, which needs peft.

    python -m rerankq_worker.engine.merging ADAPTER BASE TARGET

In fp32, as peft's own `merge_and_unload` does it, and nothing that either side lacks is made up.
"""

import json
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from rerankq_worker.model.adapters import CONFIG, WEIGHTS
from rerankq_worker.model.errors import ModelBroken, ModelError

PREFIX = "base_model.model."
HEAD = re.compile(r"(classifier\.out_proj|classifier|score)\.weight")
EMBEDDINGS = re.compile(r"(embed_tokens|word_embeddings|tok_embeddings)\.weight$")
KINDS = {"SEQ_CLS": "AutoModelForSequenceClassification", "CAUSAL_LM": "AutoModelForCausalLM"}
LOCAL = {"trust_remote_code": False, "local_files_only": True}


def main(arguments: list[str]) -> int:
    """Write config.json and the merged weights; a refusal is one line on stderr and the exit code of a broken model."""
    adapter, base, target = map(Path, arguments)
    try:
        merge(adapter, base).save_pretrained(target)
    except (ModelError, MemoryError, OSError) as error:
        print(" ".join(str(error).split()) or "out of memory", file=sys.stderr)
        return ModelError.exit_code
    return 0


def merge(adapter: Path, base: Path) -> Any:
    """transformers' own model with the adapter in its weights.

    Raises:
        ModelBroken: they do not belong together, or adapters of this kind have no weights to merge.
    """
    from peft import PeftModel

    shapes = _shapes(adapter / WEIGHTS)
    model = _load_base(adapter, base, shapes)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*missing adapter keys")
            adapted: Any = PeftModel.from_pretrained(model, adapter)
    except Exception as error:  # peft raises whatever a file of adapter_config.json's makes it raise
        raise ModelBroken(
            f"{adapter} does not fit {base} ({_first_line(error)}); is it the base of this adapter?"
        ) from error
    merge_and_unload = getattr(adapted, "merge_and_unload", None)
    if merge_and_unload is None:
        raise ModelBroken(
            f"{adapter} is an adapter of type {_told(adapter, 'peft_type')}, which cannot be merged"
        )
    return merge_and_unload(safe_merge=True)


def _load_base(adapter: Path, base: Path, shapes: Mapping[str, list[int]]) -> Any:
    import transformers

    config: Any = transformers.AutoConfig.from_pretrained(base, **LOCAL)
    kind: Any = getattr(transformers, _kind(adapter, config))
    labels = [shape[0] for name, shape in shapes.items() if HEAD.fullmatch(name)]
    if labels:
        config.num_labels = labels[0]
    model, report = kind.from_pretrained(
        base,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # a head of other labels, which the adapter brings its own for
        **LOCAL,
    )
    made_up = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])} - shapes.keys()
    if made_up:
        raise ModelBroken(
            f"neither {base} nor the adapter has {min(made_up)}; give a base that does, or save it along"
        )
    rows = [shape[0] for name, shape in shapes.items() if EMBEDDINGS.search(name)]
    if rows and rows[0] != config.vocab_size:
        model.resize_token_embeddings(rows[0], mean_resizing=False)
    return model


def _kind(adapter: Path, config: Any) -> str:
    """The class that the adapter was trained in."""
    task = _told(adapter, "task_type")
    if task is None:
        is_causal = any(name.endswith("ForCausalLM") for name in config.architectures or ())
        task = "CAUSAL_LM" if is_causal else "SEQ_CLS"
    if task not in KINDS:
        raise ModelBroken(
            f"{adapter} was trained for {task}; expected an adapter of a reranker, for {' or '.join(KINDS)}"
        )
    return KINDS[task]


def _told(adapter: Path, key: str) -> Any:
    return json.loads((adapter / CONFIG).read_text(encoding="utf-8")).get(key)


def _shapes(file: Path) -> dict[str, list[int]]:
    """The tensors of an adapter by their names in the base: whole ones, beside those that are the adapter."""
    with safe_open(file, framework="pt") as tensors:
        return {
            name.removeprefix(PREFIX): tensors.get_slice(name).get_shape()
            for name in tensors.keys()  # noqa: SIM118 - safetensors gives no mapping
        }


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
