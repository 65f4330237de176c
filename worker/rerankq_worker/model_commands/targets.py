"""Where a command writes a model: a directory that is complete or not there."""

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from rerankq_worker.model.errors import ModelNotFound


def refuse_used(target: Path) -> None:
    """Refuse a directory with something in it.

    Raises:
        ModelNotFound
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelNotFound(f"expected --to to be a new or an empty directory, got {target}")


@contextmanager
def in_the_making(target: Path) -> Generator[Path]:
    """A directory beside the wanted one, to be filled and renamed; gone at the end where it was not.

    Raises:
        ModelNotFound: nothing can be written there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        ours = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        ours.chmod(0o755)
    except OSError as error:
        raise ModelNotFound(
            f"{target} cannot be written ({error}); name another directory with --to"
        ) from error
    try:
        yield ours
    finally:
        shutil.rmtree(ours, ignore_errors=True)
