"""Find the files of a model and refuse what cannot be served, before anything heavy is imported.

Reads config.json and the head of the weights file; knows no torch and no tensor.

    ModelError
    ├── ModelNotFound   there is no such directory, or the Hub cannot be reached or does not know it
    └── ModelBroken     the files are there and cannot be served: wrong architecture, pickled or cut-off weights, ...
"""

import errno
import hashlib
import importlib
import json
import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

ARCHITECTURE = "XLMRobertaForSequenceClassification"
FIRST_POSITION = (
    2  # padding_idx + 1: XLM-RoBERTa counts positions from here, so two rows of its table are never used
)
KNOWN_REVISIONS: dict[str, str] = {}  # Hub id -> commit; empty until a host with the weights has verified one
HUB_PATTERNS = ["*.json", "*.safetensors"]  # never *.bin: a pickle runs code when it is read
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
SHIPPED_MODEL = "small"

SAMPLE_BYTES = 4096
SAMPLES = 64
REVISION_DIGITS = 12

PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""Of a host in trouble; the files may be in order, and another try may find them so."""
LONGEST_REASON_CHARACTERS = 300


class ModelError(Exception):
    """The model cannot be served."""


class ModelNotFound(ModelError):
    """There is no such model where we may look."""


class ModelBroken(ModelError):
    """The model's files are there and cannot be served."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A directory that was checked: config, safetensors weights, tokenizer.json."""

    path: Path
    name: str
    """The Hub id, "small", or the directory's own name: what a ranking says it was scored with."""
    revision: str
    """The Hub commit, or `sha256:` and 12 digits: of a directory's `fingerprint`, or of "small"'s pinned weights."""


def find_model(model: str | Path, revision: str | None = None, offline: bool = False) -> ModelFiles:
    """The checked files of a directory, of the shipped model ("small") or of a Hub id.

    Raises:
        ModelNotFound, ModelBroken: one line each, with the way out.
    """
    if model == SHIPPED_MODEL:
        return _shipped_model()
    directory = Path(model).expanduser()
    if directory.is_dir():
        return _checked(directory, name=directory.resolve().name, revision=revision)
    if isinstance(model, Path) or not HUB_ID.fullmatch(model):
        raise ModelNotFound(
            f"no model directory at {directory}; give a directory, a Hub id such as BAAI/bge-reranker-v2-m3, "
            f"or {SHIPPED_MODEL!r}"
        )
    snapshot = _from_hub(model, revision or KNOWN_REVISIONS.get(model), offline)
    return _checked(snapshot, name=model, revision=snapshot.name)


@contextmanager
def reading(directory: Path) -> Generator[None]:
    """Whatever is raised while a model's files are read is said of the model: they will be no better at the next start.

    Raises:
        ModelBroken: with the reason; not for want of memory, nor for a disk in trouble, which may pass.
    """
    try:
        yield
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # the libraries raise whatever they like, at whatever is in the files
        if isinstance(error, OSError) and error.errno in PASSING:
            raise
        lines = str(error).strip().splitlines() or ["no reason given"]
        reason = f"{type(error).__name__}: {lines[0]}"[:LONGEST_REASON_CHARACTERS]
        raise ModelBroken(f"{directory} cannot be read as a model ({reason})") from error


def read_json_object(file: Path) -> dict[str, Any]:
    """What a JSON file of a model holds, as a dictionary."""
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelBroken(f"{file} is missing; {file.parent} is no model directory") from error
    except ValueError as error:
        raise ModelBroken(f"{file} is not JSON ({error}); fetch it again") from error
    if not isinstance(content, dict):
        raise ModelBroken(f"expected {file} to hold a JSON object, got {type(content).__name__}")
    return cast(dict[str, Any], content)


def read_config(directory: Path) -> dict[str, Any]:
    """config.json as a dictionary."""
    return read_json_object(directory / "config.json")


def usable_length_tokens(config: dict[str, Any]) -> int:
    """The longest row the position table can hold: 8192 for bge-reranker-v2-m3, whose table has 8194 rows.

    A position beyond the table is a device assert on CUDA, and that poisons the whole process.
    """
    return int(config["max_position_embeddings"]) - FIRST_POSITION


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that hold the weights: one, or the shards that the index names."""
    single = directory / "model.safetensors"
    index = directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        shards = cast(dict[str, str], read_json_object(index).get("weight_map", {}))
        return [directory / name for name in sorted(set(shards.values()))]
    if any(directory.glob("*.bin")):
        raise ModelBroken(
            f"{directory} has only pickled weights (*.bin), which can run code when read; "
            "convert them to model.safetensors"
        )
    raise ModelBroken(f"{directory} has no model.safetensors; `rerankq model pull` fetches a whole model")


def fingerprint(directory: Path) -> str:
    """`sha256:` and 12 digits over config, tokenizer, and the head, size and 64 samples of the weights.

    Sampled, because hashing 2 GB delays a restart by seconds; a fine-tuned model differs in every tensor, so
    samples tell it from its parent. It names a revision; it is no proof against tampering.
    """
    digest = hashlib.sha256()
    for name in ("config.json", "tokenizer.json"):
        digest.update((directory / name).read_bytes())
    for file in weight_files(directory):
        size_bytes = file.stat().st_size
        digest.update(size_bytes.to_bytes(8, "big"))
        with file.open("rb") as stream:
            for sample in range(SAMPLES):
                stream.seek(max(0, size_bytes - SAMPLE_BYTES) * sample // (SAMPLES - 1))
                digest.update(stream.read(SAMPLE_BYTES))
    return f"sha256:{digest.hexdigest()[:REVISION_DIGITS]}"


def _checked(directory: Path, name: str, revision: str | None) -> ModelFiles:
    _check_architecture(directory)
    _check_tokenizer(directory)
    for file in weight_files(directory):
        _check_safetensors(file)
    return ModelFiles(path=directory, name=name, revision=revision or fingerprint(directory))


def _shipped_model() -> ModelFiles:
    """The model in the box. Its revision is its pinned hash: samples may miss a change to a few of its tensors."""
    try:
        room = importlib.import_module(
            "rerankq_worker.small_model"
        )  # lazy: building it takes seconds, few need it
    except ModuleNotFoundError as error:
        raise ModelNotFound(
            "this build carries no small model; give a model directory or a Hub id"
        ) from error
    pinned = cast(str, room.WEIGHTS_SHA256)
    return _checked(
        cast(Path, room.materialise()), name=SHIPPED_MODEL, revision=f"sha256:{pinned[:REVISION_DIGITS]}"
    )


def _from_hub(model: str, revision: str | None, offline: bool) -> Path:
    from huggingface_hub import snapshot_download  # lazy: a directory needs no Hub library
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    ways_out = f"run `rerankq model pull {model}` on a host that reaches the Hub, or give a model directory"
    try:
        return Path(
            snapshot_download(model, revision=revision, allow_patterns=HUB_PATTERNS, local_files_only=offline)
        )
    except LocalEntryNotFoundError as error:
        where = (
            "is not in the local cache"
            if offline
            else "is not in the local cache and the Hub was not reached"
        )
        raise ModelNotFound(f"model {model} {where}; {ways_out}") from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(
            f"the Hub knows no public model {model}; check its name, or set HF_TOKEN"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelNotFound(
            f"model {model} could not be fetched ({type(error).__name__}); {ways_out}"
        ) from error


def _check_architecture(directory: Path) -> None:
    config = read_config(directory)
    architectures = config.get("architectures")
    if architectures != [ARCHITECTURE]:
        raise ModelBroken(f"expected {directory / 'config.json'} to say {ARCHITECTURE}, got {architectures}")
    labels = _number_of_labels(config)
    if labels != 1:
        raise ModelBroken(f"expected a reranker with 1 label, got {labels} in {directory / 'config.json'}")
    expected = {
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "pad_token_id": FIRST_POSITION - 1,
    }
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise ModelBroken(
                f"expected {key} to be {value!r} in {directory / 'config.json'}, got {config[key]!r}"
            )


def _number_of_labels(config: dict[str, Any]) -> int:
    if "num_labels" in config:
        return int(config["num_labels"])
    return len(config.get("id2label") or (0, 1))  # transformers' default is two labels


def _check_tokenizer(directory: Path) -> None:
    if not (directory / "tokenizer.json").is_file():
        raise ModelBroken(
            f"{directory} has no tokenizer.json; save it with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )


def _check_safetensors(file: Path) -> None:
    """The head of a safetensors file: 8 bytes of length, JSON, then exactly as many bytes as it promises."""
    cut_off = f"{file} is cut off or no safetensors file; fetch it again"
    if not file.is_file():
        raise ModelBroken(f"{file} is missing; `rerankq model pull` fetches a whole model")
    with file.open("rb") as stream:
        head_bytes = int.from_bytes(stream.read(8), "little")
        if head_bytes > 100_000_000:  # the format's own limit
            raise ModelBroken(cut_off)
        head = stream.read(head_bytes)
    try:
        tensors: dict[str, Any] = json.loads(head)
        end = max(tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelBroken(cut_off) from error
    if file.stat().st_size != 8 + head_bytes + end:
        raise ModelBroken(cut_off)
