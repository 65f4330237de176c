"""Become another program that is asked to stop when its parent dies: `python … PARENT_PID PROGRAM ARGUMENT…`.

Run by path and with the standard library alone, so that it costs milliseconds. Setting this up between fork and
exec in the parent would be shorter, and can deadlock where the parent has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Tie this process to its parent, then be the program."""
    parent_pid, *command = sys.argv[1:]
    if sys.platform == "linux":
        _stop_with_parent(int(parent_pid))
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


def _stop_with_parent(parent_pid: int) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the call above
        sys.exit(1)


if __name__ == "__main__":
    main()
