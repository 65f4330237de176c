"""The model of the settings: whether its files are here, whole and of a kind that is served. Loads nothing."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rerankq.contract.findings import Finding, broken, from_message, ok, skipped, warn
from rerankq_worker.doctor.runtime import ANOTHER_DIRECTORY, has_room, nearest_there
from rerankq_worker.model import hub
from rerankq_worker.model.adapters import is_adapter
from rerankq_worker.model.errors import ModelError, ModelNotFound
from rerankq_worker.model.facts import Facts, facts_of
from rerankq_worker.model.files import choose_engine, fingerprint, locate, read_json_object
from rerankq_worker.model.published import golden_pairs, is_known
from rerankq_worker.settings import WorkerSettings

CHECK = "model"


def is_double(settings: WorkerSettings) -> bool:
    """Whether an engine without a model serves."""
    return settings.engine_factory != WorkerSettings.model_fields["engine_factory"].default


def facts_here(settings: WorkerSettings) -> Facts:
    """What its files tell.

    Raises:
        ModelError: it is not here, or no model.
    """
    return facts_of(locate(settings.model, settings.model_revision, offline=True)[0])


def engine_of(settings: WorkerSettings) -> str:
    """What computes it; nothing where that is not known."""
    if settings.engine != "auto":
        return settings.engine
    try:
        return facts_here(settings).engine or ""
    except ModelError:
        return ""


def findings(settings: WorkerSettings) -> Iterator[Finding]:
    """Whether it can be served from here as the settings ask."""
    if is_double(settings):
        yield skipped(CHECK, f"{settings.engine_factory} stands in for one")
        return
    try:
        directory, name, revision = locate(settings.model, settings.model_revision, offline=True)
        facts = facts_of(directory)
        if facts.engine is not None:
            choose_engine(directory, settings.engine)
            _refuse_a_cut_off_vocabulary(directory)
    except ModelError as error:
        yield _absent(settings, error)
        return
    if facts.engine is None and is_adapter(directory) and "merged when" in facts.reason:
        yield ok(CHECK, facts.reason)
    elif facts.engine is None:
        yield from_message(CHECK, facts.reason, "rerankq model info")
    else:
        yield ok(CHECK, _in_words(name, revision or fingerprint(directory), facts))


def _refuse_a_cut_off_vocabulary(directory: Path) -> None:
    """Nobody else reads it before an engine does."""
    if (file := directory / "tokenizer.json").exists():
        read_json_object(file)


def golden(settings: WorkerSettings) -> dict[str, Any] | None:
    """The model's name, and the scores that were published for it; None where it is not here."""
    if is_double(settings):
        return None
    try:
        directory, name, revision = locate(settings.model, settings.model_revision, offline=True)
        known = is_known(name, revision or _fingerprint(directory))
    except (ModelError, OSError):  # said by its own check
        return None
    return {"model": name, "known": known, "pairs": [asdict(pair) for pair in golden_pairs(name)]}


def _fingerprint(directory: Path) -> str:
    return "" if is_adapter(directory) else fingerprint(directory)


def _absent(settings: WorkerSettings, error: ModelError) -> Finding:
    """What is not here yet may come by itself, slowly."""
    message = str(error)
    if hub.HUB_ID.fullmatch(settings.model) and "not in the local cache" in message:
        text, cure = f"{settings.model} is not in the Hub's cache", f"rerankq model pull {settings.model}"
        if not has_room(nearest_there(hub.cache_directory())):
            told = f"{text}, {hub.cache_directory()}, whose disk is full"
            return broken(CHECK, told, f"export HF_HUB_CACHE={ANOTHER_DIRECTORY}")
        if settings.offline:
            return broken(
                CHECK, f"{text}, and RERANKQ_OFFLINE forbids to fetch it", f"RERANKQ_OFFLINE=false {cure}"
            )
        return warn(CHECK, f"{text}: the first start is slow, it downloads it before it serves", cure)
    if "RERANKQ_CACHE_DIR" in message:
        return broken(CHECK, message.rpartition("; ")[0], f"export RERANKQ_CACHE_DIR={ANOTHER_DIRECTORY}")
    if isinstance(error, ModelNotFound):
        return broken(CHECK, message, "export RERANKQ_MODEL=small")
    return from_message(CHECK, message, "rerankq model info")


def _in_words(name: str, revision: str, facts: Facts) -> str:
    condition = f"; {facts.reason}" if facts.reason else ""
    return (
        f"{name} ({revision}): {facts.family}, computed by {facts.engine}, {facts.parameters / 1e6:,.0f} M parameters, "
        f"files whole{condition}"
    )
