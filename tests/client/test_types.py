"""What a type checker tells a user: nothing about what is right, and each mistake on its line."""

import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rerankq
from rerankq import AsyncRerankClient, RerankClient
from rerankq.contract.messages import RequestOptions, RerankRequest
from rerankq.reranker import AsyncReranker, Reranker
from tests.conftest import REPOSITORY

FILES = Path(__file__).parent / "typed"
NO_MYPY = pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed")
CHECKERS = [pytest.param("pyright", id="pyright"), pytest.param("mypy", id="mypy --strict", marks=NO_MYPY)]
ASKED, BY_NAME = ("query", "documents", "version"), rerankq.__all__


def complaints(checker: str, place: Path) -> dict[str, list[int]]:
    """The lines of each of a user's files, outside our house, that a checker complains of."""
    environment = {**os.environ, "MYPYPATH": str(REPOSITORY / "producer")}
    for name in ("right.py", "wrong.py"):
        shutil.copy(FILES / name, place)
    (place / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(REPOSITORY / "producer")]}))
    options = {
        "pyright": ["-p", str(place), "--pythonpath", sys.executable],
        "mypy": ["--strict", "--follow-imports=silent", "--cache-dir", "cache", "right.py", "wrong.py"],
    }
    command = [sys.executable, "-m", checker, *options[checker]]
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=150
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = re.findall(r"(\w+\.py):(\d+).* error: ", done.stdout.replace(" - error", " error"))
    return {
        file: sorted({int(line) for named, line in found if named == file})
        for file in ("right.py", "wrong.py")
    }


@pytest.mark.parametrize("checker", CHECKERS)
def test_each_planted_mistake_is_found_and_nothing_else(checker: str, tmp_path: Path) -> None:
    lines = (FILES / "wrong.py").read_text().splitlines()
    planted = [number for number, line in enumerate(lines, start=1) if line.endswith("# mistake")]

    assert complaints(checker, tmp_path) == {"right.py": [], "wrong.py": planted}


def test_the_options_are_the_fields_of_a_request() -> None:
    options = {name for name in RerankRequest.model_fields if name not in ASKED}

    assert set(RequestOptions.__annotations__) == options


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [
        (RerankClient, Reranker),
        (AsyncRerankClient, AsyncReranker),
    ],
)
def test_a_client_takes_what_its_protocol_says(kind: type, protocol: type) -> None:
    for name, method in inspect.getmembers(protocol, inspect.isfunction):
        if not name.startswith("_"):
            assert (
                inspect.signature(getattr(kind, name)).parameters.keys()
                == inspect.signature(method).parameters.keys()
            )


def test_the_public_names_are_these_and_each_is_there() -> None:
    assert {name: getattr(rerankq, name).__name__ for name in BY_NAME} == {name: name for name in BY_NAME}
    assert set(BY_NAME) <= set(dir(rerankq))
    assert set(BY_NAME) == {
        *("RerankClient", "AsyncRerankClient", "Reranker", "AsyncReranker", "Job", "AsyncJob", "JobStatus"),
        *("RerankRequest", "Document", "Ranking", "RankedDocument"),
        *("RerankError", "InvalidRequest", "PayloadTooLarge", "QueueFull", "NoWorkers", "DeadlineExceeded"),
        *("ResultTimeout", "JobFailed", "JobUnknown", "Cancelled", "BrokerUnavailable", "InvalidSettings"),
    }


def test_the_types_ship() -> None:
    assert (REPOSITORY / "producer/rerankq/py.typed").is_file()
