"""Where a command writes a model: a directory that is complete or not there."""

import shutil
import signal
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rerankq_worker.model.errors import ModelNotFound


def refuse_used(target: Path) -> None:
    """Refuse a directory with something in it, or one whose place no other can take.

    Raises:
        ModelNotFound
    """
    place = target.resolve()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ModelNotFound(f"expected --to to be a new or an empty directory, got {target}")
    if place.is_mount():
        raise ModelNotFound(f"expected --to to be a new directory, got {target}, a mount; name one within it")


@contextmanager
def in_the_making(target: Path, source: Path) -> Generator[Path]:
    """A directory beside the wanted one, to be filled: it is given that name in the end, unless it is `source`'s.

    Nothing is left of it after SIGTERM either, which is a KeyboardInterrupt meanwhile.

    Raises:
        ModelNotFound: it would be part of the model that is read, or cannot be written; nothing is left of it.
    """
    place, source = target.resolve(), source.resolve()
    if source in place.parents:
        raise ModelNotFound(f"expected --to to be outside of the model's own directory, got {target}")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        ours = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
        try:
            ours.chmod(0o755)
            yield ours
            if place != source:
                ours.replace(place)
        finally:
            shutil.rmtree(ours, ignore_errors=True)
    except OSError as error:
        raise ModelNotFound(
            f"{target} cannot be written ({error}); name another directory with --to"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, before)
