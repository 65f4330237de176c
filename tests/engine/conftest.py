"""Fixtures of the engine's tests: one tiny model, its engine, and transformers' own answer for a list of rows."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

from rerankq_worker.engine import Engine
from rerankq_worker.model.files import find_model
from tests.engine.definition import Plain, plain_model
from tests.model_dirs import build_model_dir


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def gpus_stay_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command hides the other devices from its process, which here would be the tests of all devices."""
    monkeypatch.setattr("rerankq_worker.model_commands.verifying.os", SimpleNamespace(environ={}))


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_dir(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_dir: Path) -> Engine:
    return Engine.load(tiny_dir, device="cpu", dtype="fp32", max_length_tokens=8192)


@pytest.fixture(scope="session")
def plain_logits(tiny_dir: Path) -> Plain:
    """The tiny model's scores by definition."""
    return plain_model(
        transformers.AutoModelForSequenceClassification.from_pretrained(tiny_dir, dtype=torch.float32)
    )


@pytest.fixture(scope="session", params=["tiny", "small"])
def engine_and_plain(request: pytest.FixtureRequest) -> tuple[Engine, Plain]:
    """An engine at the greatest length its model has places for, and the same model by definition."""
    if request.param == "tiny":
        return request.getfixturevalue("tiny"), request.getfixturevalue("plain_logits")
    directory = find_model("small").path
    model = transformers.AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32)
    return Engine.load(directory, device="cpu", dtype="fp32", max_length_tokens=8192), plain_model(model)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared test data, beside the checkout or where RERANKQ_SHARED says."""
    folder = Path(os.environ.get("RERANKQ_SHARED") or Path(__file__).parents[2].parent / "shared") / "data"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}")
    return folder
