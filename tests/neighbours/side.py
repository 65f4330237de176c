"""Python environments beside our own: whoever asks us has packages pinned that are not ours."""

import fcntl
import hashlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

KEPT_IN = Path(os.environ.get("RERANKQ_NEIGHBOURS_DIR", REPOSITORY / "build" / "neighbours"))
INSTALLED_WITHIN_SECONDS = 540


def side_environment(*requirements: str) -> Path:
    """The Python of an environment with these packages and the asking side of this checkout, made once.

    Skips the test where a package cannot be had; fails it where ours and these exclude each other.
    """
    home = KEPT_IN / _key(requirements)
    python = home / "bin" / "python"
    KEPT_IN.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "made").exists():
            _make(home, python, requirements)
    return python


def _key(requirements: tuple[str, ...]) -> str:
    """Anew for other packages, another Python, another checkout, other dependencies or commands of ours."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    ours = [repr(project[name]) for name in ("dependencies", "scripts")]
    parts = [*requirements, sys.version, str(REPOSITORY), *ours]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _make(home: Path, python: Path, requirements: tuple[str, ...]) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", home], check=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-input"]
    try:
        done = subprocess.run(
            [*pip, "--editable", REPOSITORY, *requirements],
            capture_output=True,
            text=True,
            timeout=INSTALLED_WITHIN_SECONDS,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{' '.join(requirements)} was not installed within {INSTALLED_WITHIN_SECONDS} s")
    if "ResolutionImpossible" in done.stderr:
        pytest.fail(f"rerankq excludes {' '.join(requirements)}:\n{done.stderr}", pytrace=False)
    if done.returncode:
        pytest.skip(f"{' '.join(requirements)} cannot be had: {done.stderr.strip().splitlines()[-1]}")
    (home / "made").touch()
