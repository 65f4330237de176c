"""`info`: what a model's files tell of it, and whether this host's devices have the memory for it. Loads nothing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rerankq_worker.host.devices import Device, chosen_devices
from rerankq_worker.host.memory import memory_of
from rerankq_worker.model.adapters import is_adapter
from rerankq_worker.model.calibrated import calibration_of
from rerankq_worker.model.errors import ModelError
from rerankq_worker.model.facts import SCALE_IN_WORDS, Facts, facts_of
from rerankq_worker.model.files import base_of, fingerprint, locate
from rerankq_worker.model.published import golden_pairs, is_known
from rerankq_worker.model_commands.words import in_bytes, in_millions
from rerankq_worker.settings import WorkerSettings

PRECISIONS = {
    ("packed", "cpu"): ("fp32", "fp16", "bf16", "int8"),
    ("packed", "gpu"): ("fp32", "fp16"),
    ("sentence-transformers", "cpu"): ("fp32", "fp16", "bf16"),
    ("sentence-transformers", "gpu"): ("fp32", "fp16", "bf16"),
}
"""What each engine offers on a device."""
LEAST_BATCH_TOKENS = 1024
"""What a CPU takes at a time. A GPU takes more, as far as its free memory goes."""


def print_info(settings: WorkerSettings, as_json: bool) -> int:
    """Print it; of a model that no engine computes, the reason.

    Raises:
        ModelError: it is not here, or has no config.json.
    """
    directory, name, revision = locate(settings.model, settings.model_revision, offline=True)
    if is_adapter(directory):
        revision = None  # a commit names the one of both
    facts = facts_of(directory)
    told = _told(name, revision or _fingerprint(directory), facts, settings)
    print(json.dumps(told, ensure_ascii=False) if as_json else "\n".join(_lines(told)))
    return 0


def _fingerprint(directory: Path) -> str:
    try:
        return base_of(directory, offline=True)[2] if is_adapter(directory) else fingerprint(directory)
    except (ModelError, OSError):  # said as the reason why it is not served
        return ""


def _told(name: str, revision: str, facts: Facts, settings: WorkerSettings) -> dict[str, Any]:
    length = min(facts.length_tokens or settings.max_length_tokens, settings.max_length_tokens)
    batch_tokens = settings.max_batch_tokens or max(length, LEAST_BATCH_TOKENS)
    return {
        "model": name,
        "revision": revision,
        "path": str(facts.path),
        "engine": facts.engine,
        "reason": facts.reason,
        "family": facts.family,
        "architecture": facts.architecture,
        "labels": facts.labels,
        "scale": facts.scale,
        "length_tokens": facts.length_tokens,
        "parameters": facts.parameters,
        "stored_as": facts.stored_as,
        "licence": facts.licence,
        "calibration": calibration_of(facts.path),
        "golden": {"pairs": len(golden_pairs(name)), "known_weights": is_known(name, revision)},
        "batch_tokens": batch_tokens,
        "memory": [_on(device, facts, batch_tokens) for device in chosen_devices(settings.devices)],
        "size_bytes": facts.size_bytes,
        "files": facts.sizes,
    }


def _on(device: Device, facts: Facts, batch_tokens: int) -> dict[str, Any]:
    """What an engine of it takes on a device in each precision, and what the device has."""
    kind = "gpu" if device.cuda_visible_devices else "cpu"
    here = memory_of(device)
    return {
        "device": device.name,
        "total_bytes": here and here.total,
        "free_bytes": here and here.free,
        "needed_bytes": {
            dtype: facts.memory_bytes(dtype, batch_tokens)
            for dtype in PRECISIONS.get((facts.engine or "", kind), ())
        },
    }


def _lines(told: Mapping[str, Any]) -> list[str]:
    stored = ", ".join(told["stored_as"]) or "no weights"
    length = told["length_tokens"]
    rows = {
        "model": told["model"],
        "revision": told["revision"] or "none",
        "path": told["path"],
        "engine": ": ".join(filter(None, [told["engine"] or "none", told["reason"]])),
        "family": f"{told['family'] or 'not stated'} ({told['architecture'] or 'no architecture named'})",
        "labels": str(told["labels"] or "not known"),
        "score": SCALE_IN_WORDS.get(told["scale"], "not known"),
        "length": f"{length} tokens, of which RERANKQ_MAX_LENGTH_TOKENS are used" if length else "not stated",
        "parameters": f"{in_millions(told['parameters'])}, stored as {stored}",
        "licence": told["licence"] or "not stated",
        "golden": _golden(told["golden"]),
        "size": f"{in_bytes(told['size_bytes'])} on disk",
    }
    if told["calibration"]:
        rows["int8"] = _calibration(told["calibration"])
    width = max(map(len, rows))
    lines = [f"{name:{width}}  {value}" for name, value in rows.items()]
    lines += [f"{'memory':{width}}  {_memory(one, told['batch_tokens'])}" for one in told["memory"]]
    return [*lines, "files:", *(f"  {in_bytes(size):>8}  {name}" for name, size in told["files"].items())]


def _calibration(said: Mapping[str, str]) -> str:
    model, revision, date, pairs, file, layers = (
        said.get(name, "?") for name in ("model", "revision", "date", "pairs", "file", "layers")
    )
    return (
        f"of {model} ({revision}), calibrated {date} on {pairs} pairs of {file}: {layers} layers scaled by it"
    )


def _golden(told: Mapping[str, Any]) -> str:
    if not told["pairs"]:
        return "nobody has published scores of it"
    whose = "of these weights" if told["known_weights"] else "of a model of that name"
    return f"{told['pairs']} published scores {whose}; `rerankq model verify` compares"


def _memory(told: Mapping[str, Any], batch_tokens: int) -> str:
    needed, free = told["needed_bytes"], told["free_bytes"]
    if not needed:
        return f"{told['device']}: no engine computes it"
    estimates = [
        f"{dtype} {in_bytes(size)}{'' if free is None or size <= free else ' (not free)'}"
        for dtype, size in needed.items()
    ]
    there = (
        "nothing tells what it has"
        if free is None
        else f"{in_bytes(free)} of {in_bytes(told['total_bytes'])} free"
    )
    return f"{told['device']}: about {', '.join(estimates)}, with a batch of {batch_tokens} tokens; {there}"
