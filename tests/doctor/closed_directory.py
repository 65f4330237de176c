"""A directory that nobody may look into, as that of a Redis that has a user of its own."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def closed_to_us(directory: Path) -> Generator[None]:
    """Not even to root, who is somebody else meanwhile."""
    is_root = os.getuid() == 0
    directory.chmod(0)
    if is_root:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if is_root:
            os.setresuid(0, 0, 0)
        directory.chmod(0o700)
