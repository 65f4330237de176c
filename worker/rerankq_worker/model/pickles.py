"""Which files of a model cannot be served as they are: pickles of weights, old tokenizers. Reads none of them."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
ADAPTER = "adapter_model.bin"
READ_INSTEAD = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors")
OF_MODULES = f"[0-9]*_*/{SINGLE}"
"""At the Hub: of the layers that sentence-transformers keeps in folders of their own."""
PATTERNS = ("pytorch_model*.bin", OF_MODULES, ADAPTER)
"""Of the model, of its layers, of an adapter; never of a training."""


def folders_of_pickles(directory: Path) -> list[Path]:
    """The folders, the directory first, whose weights are pickles alone."""
    folders = [directory, *(path for path in sorted(directory.iterdir()) if path.is_dir())]
    return [folder for folder in folders if _is_pickled(folder)]


def _is_pickled(folder: Path) -> bool:
    pickled = any((folder / name).is_file() for name in (SINGLE, INDEX, ADAPTER))
    return pickled and not any((folder / name).is_file() for name in READ_INSTEAD)


def pickled_module(directory: Path, at_the_hub: Collection[str] = ()) -> str | None:
    """The first pickle that sentence-transformers would read for a layer beside the model, by its name.

    Args:
        at_the_hub: what there is, where the directory holds what was fetched of it.
    """
    modules = directory / "modules.json"
    listed: list[dict[str, Any]] = (
        json.loads(modules.read_text(encoding="utf-8")) if modules.is_file() else []
    )
    for module in listed:
        name = str(Path(module["path"], SINGLE))
        is_there = (directory / name).is_file() or name in at_the_hub
        # the model itself is loaded by transformers, which is told to take no pickle
        is_model = str(module["type"]).endswith(".Transformer")
        if is_there and not is_model and not (directory / module["path"] / "model.safetensors").is_file():
            return name
    return None


def lacks_tokenizer(directory: Path) -> bool:
    """Whether a whole model, which an adapter is not, has no tokenizer.json."""
    return (directory / "config.json").is_file() and not (directory / "tokenizer.json").is_file()
