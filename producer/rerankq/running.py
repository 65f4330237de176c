"""Where a `rerankq up` of this user runs: told by a file that it keeps locked for as long as it lives.

A file that nobody holds is what a killed one left behind, and is no address.
"""

import fcntl
import os
import stat
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def address_file() -> Path:
    """The file, in the user's runtime directory."""
    private = os.environ.get("XDG_RUNTIME_DIR")
    if private:
        return Path(private) / "rerankq" / "up"
    return Path(tempfile.gettempdir()) / f"rerankq-{os.getuid()}" / "up"


@contextmanager
def announced(broker_url: str) -> Generator[bool]:
    """Tell this user's other processes the address; False where another is told already, or none can be."""
    descriptor = _taken()
    try:
        if descriptor is not None:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, broker_url.encode())
        yield descriptor is not None
    finally:
        if descriptor is not None:
            address_file().unlink(missing_ok=True)
            os.close(descriptor)


def running_broker() -> str | None:
    """The Redis of the `rerankq up` that runs; None where there is none."""
    try:
        descriptor = os.open(address_file(), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor) as file:
        return file.read() or None if _is_ours(descriptor) and _is_held(descriptor) else None


def _taken() -> int | None:
    path = address_file()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    if _is_ours(descriptor) and _is_locked(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _is_locked(descriptor: int) -> bool:
    """Take it for as long as this process lives, if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # by another `rerankq up`, or for a moment by whoever looks
        return False
    return True


def _is_ours(descriptor: int) -> bool:
    """Whether nobody else can have written it: `/tmp` is everybody's."""
    state = os.fstat(descriptor)
    return state.st_uid == os.getuid() and stat.S_IMODE(state.st_mode) == 0o600


def _is_held(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
