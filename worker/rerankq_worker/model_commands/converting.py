"""`convert`: pickled weights (`*.bin`) as safetensors, and a tokenizer.json, in a directory that can be served."""

import shutil
from pathlib import Path

from rerankq_worker.model import hub, pickles
from rerankq_worker.model.files import find_model, locate
from rerankq_worker.model.programs import run_apart
from rerankq_worker.model_commands.targets import in_the_making, refuse_used
from rerankq_worker.model_commands.verifying import load
from rerankq_worker.settings import WorkerSettings

PROGRAM = "rerankq_worker.engine.conversion"


def convert(settings: WorkerSettings, target: Path) -> int:
    """Write the directory, load it as a worker would, say what it is.

    Raises:
        ModelError: nothing was written, or what was written does not load; one line, with the way out.
    """
    source = _fetched(settings)
    if not pickles.folders_of_pickles(source) and not pickles.lacks_tokenizer(source):
        find_model(source)  # says what is wrong with it, if it is something else
        print(f"nothing to convert: {source} has neither pickled weights nor an old tokenizer")
        return 0
    in_place = target.resolve() == source.resolve()
    if not in_place:
        refuse_used(target)
    _write(source, target, in_place)
    engine = load(settings.model_copy(update={"model": str(target), "model_revision": None}))
    info = engine.info
    print(f"{target} loads: engine {info.engine}, {info.dtype} on {info.device}, revision {info.revision}")
    return 0


def _fetched(settings: WorkerSettings) -> Path:
    """The model's directory; of a Hub id whose weights, or those of layers beside it, are pickles, with these."""
    model, revision, offline = settings.model, settings.model_revision, settings.offline
    source, _name, commit = locate(model, revision, offline)
    if hub.repository_of(source) is None or Path(model).expanduser().is_dir():
        return source
    wanted = (pickles.OF_MODULES,) if any(source.glob("*.safetensors")) else pickles.PATTERNS
    return hub.fetch(model, commit, offline, (*hub.PATTERNS, *wanted))


def _write(source: Path, target: Path, in_place: bool) -> None:
    """Fill a directory beside the wanted one, then give it that name, or move what is new in place."""
    with in_the_making(target, source) as ours:
        if not in_place:
            hub.copy_pulled(source, ours, but=[pickles.INDEX])
        run_apart(PROGRAM, source, ours)
        if in_place:
            shutil.copytree(ours, target, dirs_exist_ok=True)
