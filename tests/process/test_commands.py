"""What `rerankq-worker` says of models."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model_dirs import build_model_dir


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the name of a model whose scores were published."""
    return build_model_dir(tmp_path_factory.mktemp("models") / "bge-reranker-v2-m3")


def run_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "rerankq_worker", *arguments]
    environment = {**os.environ, "RERANKQ_DEVICES": "cpu", "RERANKQ_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_weights_called_like_published_ones_are_compared_and_not_convicted(model_dir: Path) -> None:
    done = run_command("verify", str(model_dir))

    assert done.returncode == 0
    assert "bge-reranker-v2-m3 (sha256:" in done.stdout
    assert "WRONG expected" in done.stdout
    assert "a fine-tune of that name has scores of its own" in done.stdout


def test_a_model_directory_is_pulled_by_saying_where_it_is(model_dir: Path) -> None:
    done = run_command("pull", str(model_dir))

    assert done.returncode == 0
    assert done.stdout.rstrip().endswith(f"is in {model_dir}")


@pytest.mark.parametrize("command", ["pull", "verify"])
def test_a_missing_model_is_refused_in_one_line(command: str, tmp_path: Path) -> None:
    done = run_command(command, str(tmp_path / "nowhere"))

    assert done.returncode == os.EX_CONFIG
    assert done.stderr.startswith("rerankq-worker: no model directory at")
    assert len(done.stderr.splitlines()) == 1
