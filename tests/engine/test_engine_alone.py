"""The engine needs six packages and theirs: it computes on a host that has no queue, no settings, no web client.

Shown in a Python that has nothing else: `-S`, and a directory of links to the allowed packages.
"""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.conftest import REPOSITORY

NEEDED = ["torch", "transformers", "tokenizers", "safetensors", "numpy", "huggingface_hub"]
ALSO_TO_TEST = ["pytest"]
LEFT_OUT = {"typer"}  # of transformers' command line; it brings pydantic


def with_what_they_need(names: list[str]) -> dict[str, Distribution]:
    """The installed distributions of these names and of all that they require here, without extras."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found or name in LEFT_OUT:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # for another platform
            continue
        needs = map(Requirement, found[name].requires or [])
        waiting += [need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def bare_host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory from which only the allowed packages can be imported."""
    place = tmp_path_factory.mktemp("packages")
    for found in with_what_they_need([*NEEDED, *ALSO_TO_TEST]).values():
        for name in {file.parts[0] for file in found.files or []} - {"..", "__pycache__"}:
            target = Path(str(found.locate_file(name)))
            if target.exists() and not (place / name).exists():
                (place / name).symlink_to(target)
    return place


def run_on(host: Path, *arguments: str) -> str:
    """What a Python says that finds the worker, the tests and the packages of that directory."""
    done = subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=REPOSITORY,
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "PYTHONPATH": os.pathsep.join(map(str, (host, REPOSITORY / "worker", REPOSITORY))),
            **{name: os.environ[name] for name in ("RERANKQ_CACHE_DIR",) if name in os.environ},
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_what_is_blocked_cannot_be_imported(bare_host: Path) -> None:
    names = ["celery", "kombu", "redis", "pydantic", "orjson", "sentence_transformers", "prometheus_client"]
    looking = f"import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"

    assert run_on(bare_host, "-c", looking).strip() == "[]"


def test_its_tests_on_a_gpu_are_found(bare_host: Path) -> None:
    told = run_on(
        bare_host,
        *("-m", "pytest", "-p", "no:cacheprovider", "--confcutdir=tests/engine", "--collect-only", "-q"),
        "tests/engine/test_engine_on_cuda.py",
    )

    assert "test_the_true_shape_scores_32_pairs_of_512_tokens_in_2_gb" in told


def test_it_loads_and_scores_and_its_benchmark_says_what_it_was_not_compared_with(bare_host: Path) -> None:
    told = run_on(
        bare_host,
        *("-m", "benchmarks.bench_engine", "--models", "small", "--only", "rerankq fp32"),
        *("--jobs", "1", "--documents", "2", "--rounds", "1", "--threads", "1", "--device", "cpu"),
    )

    assert "crossencoder: left out, sentence_transformers is not installed" in told
    assert '"baseline": "rerankq fp32"' in told


def test_what_is_checked_on_a_card_runs_without_one(bare_host: Path) -> None:
    """Every check runs to its end here; those of a card alone find nothing."""
    told = run_on(bare_host, "-m", "benchmarks.gpu_check", "--device", "cpu", "--tiny")

    document = json.loads(told.splitlines()[-1])
    assert document["failed"] == []
    assert list(document["checks"])[-1] == "device lost: told as EngineBroken"
    speeds = [found for name, found in document["checks"].items() if name.startswith("speed")]
    assert [len(found) for found in speeds] == [9, 9]  # eight ways, and what they took together
    assert all(math.isfinite(number) for number in _numbers(document))


def _numbers(found: Any) -> Iterator[float]:
    if isinstance(found, dict):
        for value in found.values():
            yield from _numbers(value)
    elif isinstance(found, float | int):
        yield found
