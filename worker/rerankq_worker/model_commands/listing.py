"""`list`: the models of the Hub's cache that are rerankers, and the one in the box."""

import json
import sys
from collections.abc import Generator
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from rerankq_worker.model import hub
from rerankq_worker.model.errors import ModelError
from rerankq_worker.model.facts import Facts, facts_of
from rerankq_worker.model.files import SHIPPED_MODEL, find_model
from rerankq_worker.model_commands.words import in_bytes, short, table

RERANKERS = "ForSequenceClassification"
MODULES = "1_LogitScore/config.json"
"""Where sentence-transformers says which tokens of a language model are its yes and no."""
HEADINGS = ("model", "revision", "size", "family", "length", "complete", "engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One revision of one model, as `--json` gives it."""

    model: str
    revision: str
    path: str
    size_bytes: int
    family: str
    engine: str | None
    reason: str
    length_tokens: int | None
    complete: bool


def print_models(as_json: bool) -> int:
    """Print them, by name; what else is in the cache is counted."""
    everything = list(_cached())
    listed = [one for one, is_reranker in everything if is_reranker]
    listed = [*_shipped(), *sorted(listed, key=lambda one: (one.model, one.revision))]
    if as_json:
        print(json.dumps([asdict(one) for one in listed], ensure_ascii=False))
        return 0
    print(table(HEADINGS, [_cells(one) for one in listed]))
    others = len(everything) + 1 - len(listed)
    if others > 0:
        print(f"{others} more in the Hub's cache are no rerankers; `rerankq model info` tells of each")
    return 0


def _cells(one: Listed) -> tuple[str, ...]:
    engine = f"{one.engine or 'none'}: {one.reason}" if one.reason else str(one.engine)
    length = "" if one.length_tokens is None else str(one.length_tokens)
    complete = "yes" if one.complete else "no"
    return (one.model, short(one.revision), in_bytes(one.size_bytes), one.family, length, complete, engine)


def _shipped() -> Generator[Listed]:
    try:
        found = find_model(SHIPPED_MODEL)
    except ModelError as error:  # the cache cannot be written; the others are told all the same
        print(error, file=sys.stderr)
        return
    yield _listed(found.name, found.revision, found.path, facts_of(found.path), complete=True)


def _cached() -> Generator[tuple[Listed, bool]]:
    """Each revision in the Hub's cache, and whether it is a reranker."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        scanned = scan_cache_dir()
    except CacheNotFound:
        return
    for warning in scanned.warnings:
        print(f"{' '.join(str(warning).split())}", file=sys.stderr)
    for repository in scanned.repos:
        for revision in repository.revisions if repository.repo_type == "model" else ():
            yield _told(repository.repo_id, revision.commit_hash, revision.snapshot_path)


def _told(model: str, commit: str, snapshot: Path) -> tuple[Listed, bool]:
    complete = _is_complete(snapshot)
    try:
        facts = facts_of(snapshot)
    except ModelError as error:
        facts = Facts(path=snapshot, sizes={}, reason=str(error))
    is_reranker = (
        facts.engine is not None or facts.architecture.endswith(RERANKERS) or "rerank" in model.lower()
    )
    return _listed(model, commit, snapshot, facts, complete), is_reranker


def _is_complete(snapshot: Path) -> bool:
    """Whether all that a model needs is there, as far as the Hub's library has written down what there is."""
    names = hub.files_in_repository(snapshot)
    repository = hub.repository_of(snapshot / "config.json")
    if names is None:
        return repository is None or not any((repository / "blobs").glob("*.incomplete"))
    needed = [name for name in names if any(fnmatch(name, pattern) for pattern in hub.NEEDED)]
    return all((snapshot / name).is_file() for name in needed)


def _listed(model: str, revision: str, path: Path, facts: Facts, complete: bool) -> Listed:
    return Listed(
        model=model,
        revision=revision,
        path=str(path),
        size_bytes=facts.size_bytes,
        family=facts.family,
        engine=facts.engine,
        reason=facts.reason,
        length_tokens=facts.length_tokens,
        complete=complete,
    )
