"""Each wall of the house, broken once on purpose to see it reported. `make check` sees that all of them stand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

WALLS = [
    pytest.param(
        "worker/rerankq_worker/settings.py",
        "import rerankq.client",
        "The worker knows the contract and nothing else of the asking side",
        id="worker sees the client",
    ),
    pytest.param(
        "producer/rerankq/client.py",
        "import torch",
        "The asking side never sees the worker nor anything that computes",
        id="client loads torch",
    ),
    pytest.param(
        "producer/rerankq/local/stack.py",
        "import rerankq_worker.settings",
        "The asking side never sees the worker nor anything that computes",
        id="local service imports the worker",
    ),
    pytest.param(
        "producer/rerankq/contract/transport/dead_letters.py",
        "import rerankq.contract.transport.leases",
        "Who asks needs no Celery",
        id="the command line by way of dead letters",
    ),
    pytest.param(
        "worker/rerankq_worker/engine/planner.py",
        "import redis",
        "Computing knows no Celery, kombu or redis",
        id="planner knows redis",
    ),
    pytest.param(
        "worker/rerankq_worker/model/tokenizer.py",
        "import transformers",
        "The Celery side knows no torch",
        id="Celery side loads transformers",
    ),
    pytest.param(
        "worker/rerankq_worker/job/runner.py",
        "import rerankq_worker.engine.precision",
        "The Celery side knows no torch",
        id="job reaches into the engine",
    ),
    pytest.param(
        "worker/rerankq_worker/engine_process/scheduler.py",
        "import torch",
        "Only the engine imports torch and transformers",
        id="scheduler loads torch",
    ),
    pytest.param(
        "worker/rerankq_worker/app.py",
        "import rerankq_worker.host.launcher",
        "The answering side is layered: launcher, processes, job, engine, settings",
        id="app knows the launcher",
    ),
    pytest.param(
        "producer/rerankq/client.py",
        "import rerankq.cli.app",
        "The asking side is layered: command line, local service, client, contract",
        id="client knows the command line",
    ),
    pytest.param(
        "producer/rerankq/admission.py",
        "import rerankq.submission",
        "The asking side is layered: command line, local service, client, contract",
        id="admission knows what is submitted",
    ),
    pytest.param(
        "worker/rerankq_worker/settings.py",
        "import rerankq_worker.engine.planner",
        "The answering side is layered: launcher, processes, job, engine, settings",
        id="settings know the planner",
    ),
]


@pytest.mark.parametrize(("module", "forbidden_import", "sentence"), WALLS)
def test_a_broken_wall_is_reported_by_its_sentence(
    module: str, forbidden_import: str, sentence: str, tmp_path: Path
) -> None:
    _copy_of_the_house(tmp_path)
    broken = tmp_path / module
    broken.write_text(f"{broken.read_text()}\n\n{forbidden_import}\n")

    report = _lint_imports(tmp_path)

    assert f"{sentence} BROKEN" in report


def _copy_of_the_house(place: Path) -> None:
    for room in ("producer", "worker"):
        shutil.copytree(
            REPOSITORY / room, place / room, ignore=shutil.ignore_patterns("__pycache__", "*.json", "*.bin")
        )
    shutil.copy(REPOSITORY / ".importlinter", place)


def _lint_imports(place: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": f"{place / 'producer'}:{place / 'worker'}", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, f"expected a broken contract, got exit code {done.returncode}: {done.stderr}"
    return done.stdout
