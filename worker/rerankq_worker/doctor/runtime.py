"""Whether a worker could be in its runtime directory. Makes none: made by another user, it would keep workers out."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rerankq.contract.findings import Finding, broken, ok
from rerankq_worker.link import health
from rerankq_worker.settings import WorkerSettings

_LONGEST_ADDRESS_BYTES = 107  # of a Unix socket, on Linux
ANOTHER_DIRECTORY = '"$(mktemp -d)"'
"""As it is typed."""
_CURE = f"export RERANKQ_RUNTIME_DIR={ANOTHER_DIRECTORY}"


def findings(settings: WorkerSettings) -> Iterator[Finding]:
    """One line: there or to be made, with room for its files."""
    path = settings.runtime_path
    there = nearest_there(path)
    if len(os.fsencode(settings.socket_of("cpu0"))) > _LONGEST_ADDRESS_BYTES:
        yield broken("runtime", f"{path} is too long a name for the sockets in it", _CURE)
    elif there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
        yield broken("runtime", f"nothing can be written in {there}, by this user at least", _CURE)
    elif not there.is_dir() or path.is_symlink():
        yield broken("runtime", f"{there} is no directory, and {path} can be none", _CURE)
    elif not has_room(there):
        yield broken("runtime", f"nothing can be written in {there}: its disk is full", _CURE)
    else:
        yield ok("runtime", f"{path}{'' if there == path else ', not made yet'}")


def launcher(settings: WorkerSettings) -> dict[str, Any] | None:
    """The process that owns the directory, and whether all it began has come so far that it could serve."""
    directory = settings.runtime_path
    try:
        pid = int((directory / "launcher.lock").read_text())
    except (OSError, ValueError):
        return None
    if not health.is_alive(pid):
        return None
    begun = [*health.engines(directory), *health.beats(directory)]
    return {"pid": pid, "is_starting": not begun or any(each.state == "loading" for each in begun)}


def nearest_there(path: Path) -> Path:
    """It, or the nearest above it that exists and is seen."""
    return next(each for each in (path, *path.parents) if os.access(each, os.F_OK))


def has_room(directory: Path) -> bool:
    """Whether its disk is not full."""
    disk = os.statvfs(directory)
    return disk.f_blocks == 0 or disk.f_bavail > 0  # those of the kernel have no blocks at all
