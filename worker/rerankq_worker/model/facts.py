"""What a model's files tell of it: its size, its family, which engine computes it, what its scores mean, its licence.

Reads config.json, the heads of the weights files and README.md's front matter; loads and fetches nothing.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from rerankq_worker.model import files
from rerankq_worker.model.adapters import is_adapter, merged_directory
from rerankq_worker.model.errors import ModelError

EMBEDDINGS = ("embed", "wte.", "wpe.")
"""In the names of tensors that are looked up, not multiplied by: int8 leaves them in half precision."""
SCORING = ("ForSequenceClassification", "ForCausalLM")
SCALE_IN_WORDS = {
    "sigmoid": "the sigmoid of the logit, 0 to 1",
    "identity": "the logit itself, unbounded",
    "tanh": "the tanh of the logit, -1 to 1",
}
PROCESS_BYTES = 700_000_000
"""Python, torch, a tokenizer and what a batch leaves behind: docs/engine.md's measurements less the weights."""
BYTES_A_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Of one directory; what its files do not tell is None or empty."""

    path: Path
    sizes: Mapping[str, int]
    """The bytes of each file, by its name in the directory."""
    engine: str | None = None
    """`packed` or `sentence-transformers`; None where none computes it."""
    reason: str = ""
    """Why no engine computes it, or on what condition one does, in one line."""
    family: str = ""
    """`model_type` of config.json."""
    architecture: str = ""
    labels: int | None = None
    scale: str | None = None
    length_tokens: int | None = None
    """The longest row that its positions hold."""
    parameters: int = 0
    embedded: int = 0
    """How many of them are embeddings."""
    stored_as: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many numbers are held in which type, as safetensors names them: `F32`, `BF16`."""
    hidden: int = 0
    intermediate: int = 0
    licence: str | None = None

    @property
    def size_bytes(self) -> int:
        """On disk."""
        return sum(self.sizes.values())

    def memory_bytes(self, dtype: str, batch_tokens: int) -> int:
        """About what an engine takes in a precision: its weights, a batch, and the process around them."""
        rest = self.parameters - self.embedded
        embedded_bytes = 2 if dtype == "int8" else BYTES_A_WEIGHT[dtype]
        weights_bytes = rest * BYTES_A_WEIGHT[dtype] + self.embedded * embedded_bytes
        # hidden, query, key, value, context, residual and their norms; twice the widest of the feed-forward
        batch_bytes = batch_tokens * (8 * self.hidden + 2 * self.intermediate) * 4
        return math.ceil(weights_bytes + batch_bytes) + PROCESS_BYTES


def facts_of(directory: Path) -> Facts:
    """What can be known without loading it; a directory that no engine computes has its reason told.

    Raises:
        ModelBroken: there is no config.json, or it cannot be read.
    """
    if is_adapter(directory):
        return _of_adapter(directory)
    config = files.read_config(directory)
    engine, reason = _engine(directory, config)
    counts, embedded = _counted(directory)
    architectures = cast(list[str], config.get("architectures") or [])
    return Facts(
        path=directory,
        sizes=_sizes(directory),
        engine=engine,
        reason=reason,
        family=str(config.get("model_type", "")),
        architecture=", ".join(map(str, architectures)),
        labels=_labels(directory, config) if engine else None,
        scale=files.scale_of(directory) if engine else None,
        length_tokens=_length(directory, config),
        parameters=sum(counts.values()),
        embedded=embedded,
        stored_as=dict(counts),
        hidden=_number(config, "hidden_size", "dim", "d_model"),
        intermediate=_number(config, "intermediate_size", "hidden_dim", "d_ff"),
        licence=licence_of(directory / "README.md"),
    )


def _of_adapter(directory: Path) -> Facts:
    """Those of the merged model, once somebody has loaded it; until then what it is an adapter of."""
    try:
        adapter, _base, revision = files.base_of(directory, offline=True)
    except ModelError as error:
        return Facts(path=directory, sizes=_sizes(directory), reason=str(error))
    merged = merged_directory(revision)
    if merged.is_dir():
        return facts_of(merged)
    reason = (
        f"an adapter (LoRA) of {adapter.base}, merged when it is first loaded: `rerankq model verify` does"
    )
    return Facts(path=directory, sizes=_sizes(directory), reason=reason)


def licence_of(card: Path) -> str | None:
    """What a model card's front matter names as its licence; None where it does not, or there is no card."""
    from huggingface_hub import metadata_load

    if not card.is_file():
        return None
    try:
        told: dict[str, Any] = metadata_load(card) or {}
    except Exception:  # noqa: BLE001 - whatever somebody's front matter makes a parser of YAML raise
        return None
    named: Any = told.get("license_name") or told.get("license")
    return (
        (", ".join(map(str, cast(list[Any], named))) if isinstance(named, list) else str(named))
        if named
        else None
    )


def _engine(directory: Path, config: Mapping[str, Any]) -> tuple[str | None, str]:
    """Which engine computes a model, and why none does, or perhaps none."""
    try:
        files.find_model(directory, revision="-")  # any: the fingerprint is not wanted
        engine = files.choose_engine(directory)
        files.scale_of(directory)
    except ModelError as error:
        return None, str(error)
    named = [str(name) for name in config.get("architectures") or ()]
    if named and not any(name.endswith(SCORING) for name in named):
        return None, f"{', '.join(named)} gives no scores of pairs; give a reranker"
    if engine != "packed" and not _says_how_it_is_asked(directory, named):
        return engine, "without a chat template it is asked as CrossEncoder does, which its card may not mean"
    if engine != "packed" and config.get("auto_map"):
        return engine, "if transformers has its architecture: code that a model brings along is not run"
    return engine, ""


def _says_how_it_is_asked(directory: Path, named: Sequence[str]) -> bool:
    """Whether a language model's own words stand around a pair."""
    if not any(name.endswith("ForCausalLM") for name in named):
        return True
    tokenizer = directory / "tokenizer_config.json"
    return (directory / "chat_template.jinja").is_file() or (
        tokenizer.is_file() and "chat_template" in files.read_json_object(tokenizer)
    )


def _labels(directory: Path, config: Mapping[str, Any]) -> int:
    try:
        return files.labels_of(directory, files.family_of(directory))
    except ModelError:  # not packed: as CrossEncoder counts them
        named = config.get("architectures") or ()
        if any(str(name).endswith("ForCausalLM") for name in named):
            return 1
        return int(config.get("num_labels", len(config.get("id2label") or "1")))


def _sizes(directory: Path) -> dict[str, int]:
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.stat().st_size for path in found}


def _counted(directory: Path) -> tuple[Counter[str], int]:
    """How many numbers are held in which type, and how many of them are embeddings."""
    counts: Counter[str] = Counter()
    embedded = 0
    for file in sorted(set(directory.rglob("*.safetensors")) - {directory / files.CALIBRATION}):
        for name, tensor in files.tensors_in(file).items():
            numbers = math.prod(tensor["shape"])
            counts[tensor["dtype"]] += numbers
            embedded += numbers if any(part in name for part in EMBEDDINGS) else 0
    return counts, embedded


def _length(directory: Path, config: Mapping[str, Any]) -> int | None:
    try:
        return files.family_of(directory).usable_length_tokens(config)
    except (ModelError, KeyError):
        return _number(config, "max_position_embeddings", "n_positions") or None


def _number(config: Mapping[str, Any], *names: str) -> int:
    return next((value for name in names if isinstance(value := config.get(name), int)), 0)
