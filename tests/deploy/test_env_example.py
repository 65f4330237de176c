"""`.env.example` says what the settings classes say, and what it says can be read back."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from rerankq.contract.settings import DOTENV, PREFIX, SharedSettings
from rerankq.contract.variables import OUTSIDE_THE_CLASSES, VARIABLES
from rerankq.settings import ClientSettings
from rerankq_worker.settings import WorkerSettings
from tests.deploy.compose_rules import ROOT

EXAMPLE = ROOT / ".env.example"
ENTRY = re.compile(rf"^#({PREFIX}[A-Z0-9_]+)=(.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def env_example() -> ModuleType:
    """`deploy/env_example.py`, which is a script and no package."""
    spec = importlib.util.spec_from_file_location("env_example", ROOT / "deploy" / "env_example.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory where nothing is set but what the test writes into its `.env`."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "secrets").mkdir()
    monkeypatch.setenv("RERANKQ_SECRETS_DIR", str(tmp_path / "secrets"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_file_is_what_the_generator_prints(env_example: ModuleType) -> None:
    assert EXAMPLE.read_text() == env_example.env_example(), "make env-example writes it anew"


def test_a_changed_default_changes_the_file(env_example: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerSettings.model_fields["lease_seconds"], "default", 16.0)

    assert EXAMPLE.read_text() != env_example.env_example()


def test_every_setting_has_exactly_one_entry() -> None:
    names = [name for name, _ in ENTRY.findall(EXAMPLE.read_text())]

    assert sorted(names) == sorted(VARIABLES - OUTSIDE_THE_CLASSES)


def test_every_line_is_a_comment_so_that_a_copy_changes_nothing() -> None:
    assert [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")] == []


@pytest.mark.parametrize("settings", [ClientSettings, WorkerSettings])
def test_every_entry_uncommented_is_read_as_its_default(bare: Path, settings: type[SharedSettings]) -> None:
    (bare / DOTENV).write_text(ENTRY.sub(r"\1=\2", EXAMPLE.read_text()))

    assert settings.load() == settings.model_construct()


@pytest.mark.parametrize("settings", [ClientSettings, WorkerSettings])
def test_every_entry_is_read_at_all(bare: Path, settings: type[SharedSettings]) -> None:
    defaults = settings.model_construct().model_dump()
    numbers = {name: value for name, value in defaults.items() if type(value) in (int, float) and value >= 1}
    lines = [f"{PREFIX}{name.upper()}={value + 1}" for name, value in numbers.items()]
    (bare / DOTENV).write_text("\n".join(lines))

    read = settings.load().model_dump()

    assert numbers
    assert {name: read[name] for name in numbers} == {name: value + 1 for name, value in numbers.items()}


def test_the_manual_names_no_setting_that_is_none() -> None:
    manual = (ROOT / "docs" / "operations.md").read_text()

    named = set(re.findall(rf"\b{PREFIX}[A-Z0-9_]+", manual))

    assert named
    assert named - VARIABLES == set()


def test_the_url_of_the_broker_is_read_from_a_secret_file(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bare / "secrets" / "rerankq_broker_url").write_text("redis://rerankq:pw@redis:6379/0")

    assert WorkerSettings.load().broker_url.get_secret_value() == "redis://rerankq:pw@redis:6379/0"
