"""Environments beside our own, of Python and of Node: whoever asks us has packages pinned that are not ours."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
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
    _once(home, lambda: _make(home, python, requirements))
    return python


def node_environment(*packages: str) -> Path:
    """A directory in which Node finds these packages, made once.

    Skips the test where there is no npm, or a package cannot be had.
    """
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("npm and node are not on the PATH")
    home = KEPT_IN / hashlib.sha256("\n".join(packages).encode()).hexdigest()[:16]
    _once(home, lambda: _make_for_node(home, packages))
    return home


def debian_packages(*names: str) -> Path:
    """Where these packages of Debian are unpacked, not installed: programs in `usr/bin`, their libraries in `usr/lib`.

    Skips the test where there is no apt-get, or a package cannot be had.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        pytest.skip("no apt-get to have packages of Debian from")
    home = KEPT_IN / hashlib.sha256("\n".join(["debian", *names]).encode()).hexdigest()[:16]
    _once(home, lambda: _unpack(home, names))
    return home


def _unpack(home: Path, names: tuple[str, ...]) -> None:
    home.mkdir(exist_ok=True)
    apt = ["apt-get", "download", *names]
    done = subprocess.run(apt, cwd=home, capture_output=True, text=True, timeout=INSTALLED_WITHIN_SECONDS)
    if done.returncode:
        pytest.skip(f"{' '.join(names)} cannot be had: {done.stderr.strip()[-300:]}")
    for package in home.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, home], check=True)


def _once(home: Path, make: Callable[[], None]) -> None:
    KEPT_IN.mkdir(parents=True, exist_ok=True)
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "made").exists():
            make()
            (home / "made").touch()


def _make_for_node(home: Path, packages: tuple[str, ...]) -> None:
    home.mkdir(exist_ok=True)
    (home / "package.json").write_text('{"private": true}')
    npm = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages]
    try:
        done = subprocess.run(npm, cwd=home, capture_output=True, text=True, timeout=INSTALLED_WITHIN_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{' '.join(packages)} was not installed within {INSTALLED_WITHIN_SECONDS} s")
    if done.returncode:
        pytest.skip(f"{' '.join(packages)} cannot be had: {done.stderr.strip()[-300:]}")


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
