"""Each wall of the house, broken once on purpose to see it reported. `make check` sees that all of them stand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

KNOWS_THE_CONTRACT = "The worker knows the contract and nothing else of the asking side"
COMPUTES_NOTHING = "The asking side never sees the worker nor anything that computes"
NO_CELERY = "Who asks needs no Celery"
NO_QUEUE = "Computing knows no Celery, kombu or redis"
HTTP = "Only the HTTP face needs its extra"
CELERY = "Only Celery's parent, its child and the application know Celery"
TORCH = "Only the engine imports torch, transformers and sentence-transformers"
ASKING = "The asking side is layered: command line, service, client, contract"
ANSWERING = "The answering side is layered: launcher, processes, their parts"
STRANGERS = "Processes know nothing of each other: they meet in link, model and Redis"
NEW = "producer/rerankq/http/a_new_one.py"

WALLS = [
    ("worker/rerankq_worker/settings.py", "rerankq.client", KNOWS_THE_CONTRACT),
    ("worker/rerankq_worker/link/health.py", "rerankq.http", KNOWS_THE_CONTRACT),
    ("producer/rerankq/client.py", "torch", COMPUTES_NOTHING),
    ("producer/rerankq/local/stack.py", "rerankq_worker.settings", COMPUTES_NOTHING),
    (NEW, "rerankq_worker.link.health", COMPUTES_NOTHING),
    ("producer/rerankq/contract/transport/dead_letters.py", "rerankq.contract.transport.leases", NO_CELERY),
    ("producer/rerankq/contract/transport/a_new_one.py", "kombu", NO_CELERY),
    (NEW, "rerankq.contract.broker", NO_CELERY),
    ("producer/rerankq/cli/a_new_one.py", "starlette", HTTP),
    ("worker/rerankq_worker/host/a_new_one.py", "celery", CELERY),
    ("worker/rerankq_worker/engine/planner.py", "redis", NO_QUEUE),
    ("worker/rerankq_worker/link/a_new_one.py", "rerankq.contract.redis_clients", NO_QUEUE),
    ("worker/rerankq_worker/model/tokenizer.py", "transformers", TORCH),
    ("worker/rerankq_worker/engine_process/scheduler.py", "torch", TORCH),
    ("worker/rerankq_worker/a_new_one.py", "torch", TORCH),
    ("producer/rerankq/client.py", "rerankq.cli.app", ASKING),
    ("producer/rerankq/client.py", "rerankq.http", ASKING),
    (NEW, "rerankq.cli.app", ASKING),
    (NEW, "rerankq.bulk", ASKING),
    ("producer/rerankq/admission.py", "rerankq.submission", ASKING),
    ("producer/rerankq/a_new_one.py", "os", ASKING),
    ("worker/rerankq_worker/app.py", "rerankq_worker.host.launcher", ANSWERING),
    ("worker/rerankq_worker/job/runner.py", "rerankq_worker.engine.precision", ANSWERING),
    ("worker/rerankq_worker/job/ranking.py", "rerankq_worker.queue.consumer", ANSWERING),
    ("worker/rerankq_worker/queue/headers.py", "rerankq_worker.host.metrics", ANSWERING),
    ("worker/rerankq_worker/host/a_new_one.py", "rerankq_worker.queue.consumer", STRANGERS),
    ("worker/rerankq_worker/settings.py", "rerankq_worker.engine.planner", ANSWERING),
    ("worker/rerankq_worker/a_new_one.py", "os", ANSWERING),
]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of both rooms."""
    place = tmp_path_factory.mktemp("house")
    for room in ("producer", "worker"):
        shutil.copytree(
            REPOSITORY / room, place / room, ignore=lambda _, names: [n for n in names if not _is_read(n)]
        )
    shutil.copy(REPOSITORY / ".importlinter", place)
    return place


@pytest.mark.parametrize(("module", "imported", "sentence"), WALLS, ids=lambda value: value.split("/")[-1])
def test_a_broken_wall_is_reported_by_its_sentence(
    module: str, imported: str, sentence: str, house: Path
) -> None:
    broken = house / module
    before = broken.read_text() if broken.exists() else None
    broken.write_text(f"{before or ''}\n\nimport {imported}\n")

    report = _lint_imports(house)

    broken.unlink() if before is None else broken.write_text(before)
    assert f"{sentence} BROKEN" in report


def _is_read(name: str) -> bool:
    return "." not in name or name.endswith(".py")


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
