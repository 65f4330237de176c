"""Adapters (LoRA and its kin): merged with the weights that they were trained on, once, into a directory of our cache.

What is merged is an ordinary model from then on. peft merges, in a process of its own; knows no torch here.
"""

import fcntl
import importlib.util
import json
import logging
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankq_worker.model import hub
from rerankq_worker.model.errors import ModelBroken, ModelNotFound
from rerankq_worker.model.fingerprints import fingerprint_over
from rerankq_worker.model.programs import run_apart
from rerankq_worker.model.small.unpacking import default_cache_dir

log = logging.getLogger(__name__)

PROGRAM = "rerankq_worker.engine.merging"
CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
WHOLE = ("model.safetensors", "model.safetensors.index.json")
MADE_ANEW = ("config.json", "generation_config.json", CONFIG, WEIGHTS, *WHOLE, "model-*.safetensors")


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's directory, and what it was trained on."""

    path: Path
    base: str
    """A directory or a Hub id, as adapter_config.json names it; a directory may be told from the adapter's own."""
    base_revision: str | None


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter."""
    return any((directory / name).is_file() for name in (CONFIG, WEIGHTS, PICKLE))


def read_adapter(directory: Path) -> Adapter:
    """The adapter of a directory.

    Raises:
        ModelBroken: it is a pickle, incomplete, names no base, or lies beside whole weights.
    """
    found = [name for name in (CONFIG, WEIGHTS, PICKLE) if (directory / name).is_file()]
    if any((directory / name).is_file() for name in WHOLE):
        raise ModelBroken(
            f"{directory} holds an adapter (LoRA) beside whole weights; move it to a directory of its own to have it "
            f"merged, or delete {' and '.join(found)} to serve the weights beside it"
        )
    if WEIGHTS not in found and PICKLE in {*found, *(hub.files_in_repository(directory) or ())}:
        raise ModelBroken(
            f"{directory} holds an adapter as a pickle ({PICKLE}), which can run code when read; convert it, which "
            f"runs none: `rerankq model convert {_name_of(directory)} --to DIRECTORY`"
        )
    missing = [name for name in (CONFIG, WEIGHTS) if name not in found]
    if missing:
        raise ModelBroken(f"{directory} holds an adapter without {missing[0]}; save it there whole")
    config: Any = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelBroken(
            f"{directory / CONFIG} does not say what the adapter was trained on; name a directory or a Hub id there "
            "as base_model_name_or_path"
        )
    beside = directory / base
    return Adapter(
        path=directory,
        base=str(beside) if beside.is_dir() and not Path(base).is_dir() else base,
        base_revision=config.get("revision"),
    )


def revision_of(adapter: Adapter, base: Path) -> str:
    """A fingerprint over both: other weights on either side make another model."""
    whole = [
        directory / name
        for directory in (adapter.path, base)
        for name in (CONFIG, "config.json", "tokenizer.json")
    ]
    weights = [*adapter.path.glob("*.safetensors"), *base.glob("*.safetensors")]
    return fingerprint_over(filter(Path.is_file, whole), sorted(weights))


def merged_directory(revision: str) -> Path:
    """Where an adapter and its base of this revision are kept once merged."""
    return default_cache_dir() / f"merged-{revision.removeprefix('sha256:')}"


def merge(adapter: Adapter, base: Path, revision: str) -> Path:
    """The directory of both in one, merged unless it is there.

    Raises:
        ModelBroken: they cannot be merged, or not here; one line, with the way out.
    """
    target = merged_directory(revision)
    if target.is_dir():
        return target
    if importlib.util.find_spec("peft") is None:
        raise ModelBroken(
            f"{adapter.path} is an adapter (LoRA), and peft, which merges it, is not installed: "
            "pip install 'rerankq[lora]'"
        )
    try:
        with _alone(target):
            if not target.is_dir():
                log.info("merging %s into %s, once", adapter.path, base)
                _fill_beside(target, adapter.path, base)
    except OSError as error:
        raise ModelNotFound(
            f"{adapter.path} cannot be merged into {target.parent} ({error}); "
            "set RERANKQ_CACHE_DIR to a directory that can be written"
        ) from error
    return target


@contextmanager
def _alone(target: Path) -> Generator[None]:
    """One process merges; others that want the same wait for it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fill_beside(target: Path, adapter: Path, base: Path) -> None:
    ours = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for directory in (base, adapter):  # the adapter's own tokenizer, if it has one, is the later
            hub.copy_pulled(directory, ours, but=MADE_ANEW)
        run_apart(PROGRAM, adapter, base, ours)
        ours.chmod(0o755)
        ours.rename(target)
    finally:
        shutil.rmtree(ours, ignore_errors=True)


def _name_of(directory: Path) -> str:
    repository = hub.repository_of(directory)
    return str(directory) if repository is None else hub.hub_id(repository)
