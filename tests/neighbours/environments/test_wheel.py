"""The wheel: all that the packages are, and a demo from it where nothing else is, far from this checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.neighbours.side import wheel_environment
from tests.redis_server import find_redis_server

PACKAGES = {"rerankq": REPOSITORY / "producer", "rerankq_worker": REPOSITORY / "worker"}


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


def test_a_demo_runs_from_it_where_nothing_else_is_installed(wheel: Path, tmp_path: Path) -> None:
    programs = wheel_environment(wheel, "worker").parent
    told = {"PATH": f"{programs}:{Path(find_redis_server()).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}

    def typed(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=told, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "RERANKQ_BROKER_URL" in typed("rerankq-worker", "--help")
    assert str(REPOSITORY) not in typed("python", "-c", "import rerankq; print(rerankq.__file__)")
    assert "small" in typed("rerankq", "demo")
