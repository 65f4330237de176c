"""Rewrite pickled weights as safetensors, and make a tokenizer.json where there is none: a program of its own.

    python -m rerankq_worker.engine.conversion SOURCE TARGET

A pickle is a program. torch's `weights_only` unpickler builds tensors and plain containers and refuses whatever else
one names; no code of the model's repository is imported. Around it is a process that is handed no secret, may connect
to nothing and start nothing (an audit hook refuses both), and is limited in memory and in what it may write. That is no
virtual machine: a flaw in the unpickler itself is a flaw here.
"""

import json
import os
import resource
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rerankq_worker.model.errors import ModelBroken, ModelError
from rerankq_worker.model.files import read_config, read_json_object
from rerankq_worker.model.pickles import ADAPTER, INDEX, SINGLE, folders_of_pickles, lacks_tokenizer

FORBIDDEN = (
    "socket.connect",
    "socket.bind",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
)
ROOM_BYTES = 4_000_000_000  # beside the weights: what Python, torch and a tokenizer map
METADATA = {"format": "pt"}


def main(arguments: list[str]) -> int:
    """Convert; a refusal is one line on stderr and the exit code of a broken model."""
    source, target = map(Path, arguments)
    loader = (
        _loader_of_tokenizers() if lacks_tokenizer(source) else None
    )  # before nothing may be started any more
    _confine(source)
    try:
        for folder in folders_of_pickles(source):
            _convert_folder(folder, target / folder.relative_to(source))
        if loader is not None:
            _make_tokenizer(loader, source, target)
    except (ModelError, MemoryError, OSError) as error:
        print(" ".join(str(error).split()) or "out of memory", file=sys.stderr)
        return ModelError.exit_code
    return 0


def _loader_of_tokenizers() -> Any:
    from transformers import AutoTokenizer  # takes seconds

    return AutoTokenizer


def _confine(source: Path) -> None:
    """Give up what reading a file does not need."""
    weights_bytes = sum(file.stat().st_size for file in source.rglob("*.bin"))
    mapped_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for what, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 2 * weights_bytes + ROOM_BYTES),
        (resource.RLIMIT_AS, mapped_bytes + 3 * weights_bytes + ROOM_BYTES),
    ):
        _soft, hard = resource.getrlimit(what)
        resource.setrlimit(
            what, (limit, limit) if hard == resource.RLIM_INFINITY else (min(limit, hard), hard)
        )
    sys.addaudithook(_refuse_reaching_out)


def _refuse_reaching_out(event: str, _arguments: object) -> None:
    if event.startswith(FORBIDDEN):
        raise PermissionError(f"a conversion may not do that ({event})")


def _convert_folder(folder: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    if (folder / ADAPTER).is_file():
        save_file(_read(folder / ADAPTER), target / "adapter_model.safetensors", METADATA)
    if (folder / INDEX).is_file():
        _convert_shards(folder, target)
    elif (folder / SINGLE).is_file():
        save_file(_read(folder / SINGLE), target / "model.safetensors", METADATA)


def _convert_shards(folder: Path, target: Path) -> None:
    """One at a time, so that no more than one is in memory."""
    shards = sorted(
        {Path(str(name)).name for name in read_json_object(folder / INDEX).get("weight_map", {}).values()}
    )
    placed: dict[str, str] = {}
    total_bytes = 0
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = _read(folder / shard)
        save_file(tensors, target / name, METADATA)
        placed |= dict.fromkeys(tensors, name)
        total_bytes += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total_bytes}, "weight_map": placed}
    (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")


def _read(file: Path) -> dict[str, Tensor]:
    """The tensors of a pickle by name, none sharing memory with another, as safetensors wants them.

    Raises:
        ModelBroken: it is missing or damaged, or holds anything but tensors.
    """
    if not file.is_file():
        raise ModelBroken(f"{file} is missing, and {file.with_name(INDEX).name} names it; fetch it once more")
    try:
        loaded: object = torch.load(
            file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
        )
    except MemoryError:
        raise
    except Exception as error:  # the unpickler's own errors, and whatever a damaged file makes it raise
        raise ModelBroken(f"{file} is refused: {_reason(error)}; ask its author for safetensors") from error
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ModelBroken(
            f"{file} is refused: expected tensors by name, got {type(loaded).__name__} of other things"
        )
    return _apart({str(name): tensor for name, tensor in loaded.items()})


def _reason(error: Exception) -> str:
    """What a pickle wanted, without torch's advice to let it."""
    said = " ".join(str(error).split())
    _, named, wanted = said.partition("Unsupported global: GLOBAL ")
    if not named:
        _, named, wanted = said.partition("Trying to load unsupported GLOBAL ")
    if named:
        return f"it is code that would run when read ({wanted.split()[0]})"
    return f"it cannot be read as tensors alone ({type(error).__name__})"


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    separate: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone().contiguous() if place in seen else tensor.contiguous()
        seen.add(place)
    return separate


def _make_tokenizer(loader: Any, source: Path, target: Path) -> None:
    try:
        tokenizer: Any = loader.from_pretrained(source, trust_remote_code=False, local_files_only=True)
        tokenizer.save_pretrained(target)
    except Exception as error:  # whatever is missing for whatever class the directory names
        raise ModelBroken(
            f"{source} has no tokenizer.json, and transformers makes none ({' '.join(str(error).split())[:200]}); "
            "`pip install protobuf` brings what reads older files"
        ) from error
    if not (target / "tokenizer.json").is_file():
        raise ModelBroken(f"{source} has no tokenizer.json, and its tokenizer is of a kind that has none")
    wanted = read_config(source).get("vocab_size")
    if isinstance(wanted, int) and len(tokenizer) < wanted / 2:  # transformers 5 makes one of nothing, too
        raise ModelBroken(
            f"{source} has no tokenizer.json, and of its other files transformers makes one of {len(tokenizer)} tokens "
            f"where config.json says {wanted}; put the tokenizer's files there"
        )


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    sys.exit(main(sys.argv[1:]))
