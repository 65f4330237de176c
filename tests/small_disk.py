"""A directory that is a small disk of its own for one program, and can be filled from outside.

Made in a user and mount namespace of the program's, so that no rights are needed where the kernel allows those.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

SIZE = "256k"
_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
_MOUNT_AND_RUN = f'mount -t tmpfs -o size={SIZE} none "$0" && exec "$@"'


def is_possible() -> bool:
    """Whether this machine lets a user make one."""
    if shutil.which("unshare") is None:
        return False
    trial = [*_NAMESPACE, "sh", "-c", _MOUNT_AND_RUN, "/mnt", "true"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def on_small_disk(directory: Path, command: list[str]) -> list[str]:
    """The command that runs `command` with a small disk at `directory`; the process keeps its id."""
    directory.mkdir(parents=True, exist_ok=True)
    return [*_NAMESPACE, "sh", "-c", _MOUNT_AND_RUN, str(directory), *command]


@contextlib.contextmanager
def filled(directory: Path, pid: int) -> Generator[None]:
    """That disk of the process `pid` without room for a single byte."""
    filler = Path(f"/proc/{pid}/root{directory}/filler")
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # no space left on device
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # the process has ended, and its disk with it
            filler.unlink()
