"""Which files of a model cannot be served as they are: pickles of weights, old tokenizers. Reads none of them."""

from pathlib import Path

SINGLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"
ADAPTER = "adapter_model.bin"
PATTERNS = ("pytorch_model*.bin", "[0-9]*_*/pytorch_model.bin", ADAPTER)
"""At the Hub: of the model, of sentence-transformers' folders, of an adapter; never of a training."""


def folders_of_pickles(directory: Path) -> list[Path]:
    """The folders, the directory first, whose weights are pickles alone."""
    folders = [directory, *(path for path in sorted(directory.iterdir()) if path.is_dir())]
    return [folder for folder in folders if _is_pickled(folder)]


def _is_pickled(folder: Path) -> bool:
    pickled = any((folder / name).is_file() for name in (SINGLE, INDEX, ADAPTER))
    return pickled and not any(folder.glob("*.safetensors"))


def lacks_tokenizer(directory: Path) -> bool:
    """Whether a whole model, which an adapter is not, has no tokenizer.json."""
    return (directory / "config.json").is_file() and not (directory / "tokenizer.json").is_file()
