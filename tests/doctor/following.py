"""Cures followed as they are printed: typed into a shell, whose environment is what comes of them."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from rerankq.contract.findings import Finding

PROGRAMS = Path(sys.executable).parent
"""Where `redis-cli`, `pip` and our own programs are."""

REFUSED = ("ERR", "NOAUTH", "NOPERM", "WRONGPASS")
"""What redis-cli prints, and ends with 0 all the same."""


def follow(cure: str, environment: Mapping[str, str], directory: Path | None = None) -> dict[str, str]:
    """Type it; the environment afterwards."""
    shell = subprocess.run(
        ["bash", "-ec", f"{{ {cure}; }} >&2; env -0"],
        env={**environment, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shell.returncode == 0, f"`{cure}` ended with {shell.returncode}: {shell.stderr}"
    refused = [line for line in shell.stderr.splitlines() if line.startswith(REFUSED)]
    assert refused == [], f"`{cure}` was refused"
    return dict(line.split("=", 1) for line in shell.stdout.split("\0") if "=" in line)


def of(findings: Iterable[Finding], check: str) -> Finding:
    """The finding of one check, the worst where it has several."""
    found = [each for each in findings if each.check == check]
    assert found, f"nothing was said of {check}"
    return max(found, key=lambda each: ("ok", "skipped", "warn", "broken").index(each.verdict))
