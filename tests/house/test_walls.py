"""Each wall of the house, broken once on purpose to see it reported. `make check` sees that all of them stand."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
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


LINT_AT_EVERY_LINE = """
import sys
from importlinter.cli import lint_imports
for _ in sys.stdin:
    code = lint_imports(no_cache=True)
    print(f"exit code {code}", flush=True)
"""


class House:
    """A copy of both rooms, and one process that looks at it as `lint-imports` does, which takes long to start."""

    def __init__(self, place: Path) -> None:
        self.place = place
        for room in ("producer", "worker"):
            shutil.copytree(
                REPOSITORY / room, place / room, ignore=lambda _, names: [n for n in names if not _is_read(n)]
            )
        shutil.copy(REPOSITORY / ".importlinter", place)
        self.linter = subprocess.Popen(
            [sys.executable, "-c", LINT_AT_EVERY_LINE],
            cwd=place,
            env={**os.environ, "PYTHONPATH": f"{place / 'producer'}:{place / 'worker'}", "COLUMNS": "200"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def lint(self) -> str:
        """The report on the house as it stands, its exit code last."""
        assert self.linter.stdin
        assert self.linter.stdout
        print(file=self.linter.stdin, flush=True)
        report = ""
        for line in self.linter.stdout:
            report += line
            if line.startswith("exit code"):
                break
        return report


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("house"))
    with made.linter:
        yield made


def test_a_house_whose_walls_stand_is_left_in_peace(house: House) -> None:
    assert house.lint().endswith("exit code 0\n")


@pytest.mark.parametrize(("module", "imported", "sentence"), WALLS, ids=lambda value: value.split("/")[-1])
def test_a_broken_wall_is_reported_by_its_sentence(
    module: str, imported: str, sentence: str, house: House
) -> None:
    broken = house.place / module
    before = broken.read_text() if broken.exists() else None
    broken.write_text(f"{before or ''}\n\nimport {imported}\n")

    report = house.lint()

    broken.unlink() if before is None else broken.write_text(before)
    assert f"{sentence} BROKEN" in report
    assert report.endswith("exit code 1\n")


def _is_read(name: str) -> bool:
    return "." not in name or name.endswith(".py")
