"""The wheel: all that the packages are, and a demo from it where nothing else is, far from this checkout."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.neighbours.side import side_environment, wheel_environment
from tests.redis_server import find_redis_server

PACKAGES = {"rerankq": REPOSITORY / "producer", "rerankq_worker": REPOSITORY / "worker"}
PLACES = {("producer", "rerankq"), ("worker", "rerankq_worker")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    into = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", into, REPOSITORY]
    if subprocess.run(pip, capture_output=True).returncode:
        pytest.skip("the builder of wheels cannot be had")
    (built,) = into.glob("*.whl")
    return built


def test_it_holds_every_file_of_both_packages_and_nothing_else(wheel: Path) -> None:
    ours = {
        str(file.relative_to(side))
        for name, side in PACKAGES.items()
        for file in (side / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }

    with zipfile.ZipFile(wheel) as built:
        held = {name for name in built.namelist() if ".dist-info/" not in name}

    assert held == ours
    assert {"rerankq/py.typed", "rerankq/http/page.html", "rerankq/demo_jobs.json"} <= held
    assert "rerankq_worker/model/small/model.safetensors.xz" in held


def test_the_source_distribution_holds_what_the_wheel_is_built_of_and_no_secret(tmp_path: Path) -> None:
    """hatchling reads the root's .gitignore alone, and the secrets lie under one of their own."""
    builder = side_environment("hatchling")
    checkout = tmp_path / "checkout"
    shutil.copytree(
        REPOSITORY, checkout, ignore=shutil.ignore_patterns(".venv", "build", "shared", "__pycache__", ".git")
    )
    (checkout / "deploy" / "secrets" / "redis_password").write_text("not for others")
    command = [builder, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path]

    subprocess.run(command, cwd=checkout, check=True, capture_output=True)

    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        held = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    told = {"README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md", "pyproject.toml", "PKG-INFO", ".gitignore"}
    rest = {str(file) for file in held if file.parts[:2] not in PLACES}
    assert rest == told
    assert Path("worker/rerankq_worker/model/small/model.safetensors.xz") in held


def test_a_demo_runs_from_it_where_nothing_else_is_installed(wheel: Path, tmp_path: Path) -> None:
    programs = wheel_environment(wheel, "worker").parent
    told = {"PATH": f"{programs}:{Path(find_redis_server()).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}

    def typed(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "RERANKQ_BROKER_URL" in typed("rerankq-worker", "--help")
    found = Path(typed("python", "-c", "import rerankq; print(rerankq.__file__)").strip())
    assert found.is_relative_to(programs.parent), "it is the checkout's"
    assert "small" in typed("rerankq", "demo")
