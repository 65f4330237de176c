"""Environments beside our own, of Python and of Node: whoever asks us has packages pinned that are not ours."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
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


def wheel_environment(wheel: Path, extra: str) -> Path:
    """The Python of an environment with this wheel of ours and what its extra names, as constraints.txt pins it.

    What it needs is installed once; torch is the CPU's, from PyTorch's own index or wherever pip is told to look.
    """
    constraints = REPOSITORY / "constraints.txt"
    home = KEPT_IN / _key((extra, constraints.read_text(), "wheel"))
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-input"]
    pip += ["--no-compile", "-c", constraints]
    torch = ["--no-deps", "--index-url", "https://download.pytorch.org/whl/cpu", "torch"]

    def install(*what: str | Path) -> None:
        done = _in_time([*pip, *what], str(what[-1]))
        if done.returncode:
            pytest.skip(f"{what[-1]} cannot be had: {done.stderr.strip().splitlines()[-1]}")

    def make() -> None:
        subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", home], check=True)
        install(*torch)
        install(f"rerankq[{extra}] @ {wheel.as_uri()}")

    _once(home, make)
    install("--force-reinstall", "--no-deps", wheel)
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
    done = _in_time(["apt-get", "download", *names], " ".join(names), home)
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


def _in_time(
    command: Sequence[str | Path], what: str, directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """What a program says that installs something; skips the test where it takes too long."""
    try:
        return subprocess.run(
            command, cwd=directory, capture_output=True, text=True, timeout=INSTALLED_WITHIN_SECONDS
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{what} was not installed within {INSTALLED_WITHIN_SECONDS} s")


def _make_for_node(home: Path, packages: tuple[str, ...]) -> None:
    home.mkdir(exist_ok=True)
    (home / "package.json").write_text('{"private": true}')
    npm = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages]
    done = _in_time(npm, " ".join(packages), home)
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
    done = _in_time([*pip, "--editable", REPOSITORY, *requirements], " ".join(requirements))
    if "ResolutionImpossible" in done.stderr:
        pytest.fail(f"rerankq excludes {' '.join(requirements)}:\n{done.stderr}", pytrace=False)
    if done.returncode:
        pytest.skip(f"{' '.join(requirements)} cannot be had: {done.stderr.strip().splitlines()[-1]}")
