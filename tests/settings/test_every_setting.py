"""Every setting has a reader: code that takes it from the settings and does something by it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from rerankq.contract.settings import SharedSettings
from rerankq.contract.variables import OUTSIDE_THE_CLASSES
from rerankq.http.settings import HttpSettings
from rerankq.settings import ClientSettings
from rerankq_worker.settings import WorkerSettings
from tests.conftest import REPOSITORY

SIDES: dict[type[SharedSettings], tuple[str, ...]] = {
    ClientSettings: ("producer/rerankq",),
    HttpSettings: ("producer/rerankq",),
    WorkerSettings: ("worker/rerankq_worker", "producer/rerankq/contract"),
}


def sources(folders: tuple[str, ...]) -> Iterator[ast.Module]:
    for folder in folders:
        for file in sorted((REPOSITORY / folder).rglob("*.py")):
            yield ast.parse(file.read_text())


def read_of_settings(tree: ast.AST) -> Iterator[str]:
    """What is taken from something that is called settings: `settings.x`, `self._settings.x`, `_settings().x`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and _is_settings(node.value):
            yield node.attr


def _is_settings(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return _is_settings(node.func) or ast.unparse(node.func).endswith("Settings.load")
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.lstrip("_") == "settings"


def behind_properties(settings: type[SharedSettings]) -> dict[str, set[str]]:
    """What each property and method of the class reads of itself; validators are no readers."""
    found: dict[str, set[str]] = {}
    for tree in sources(("producer/rerankq", "worker/rerankq_worker")):
        for owner in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
            if owner.name not in {kind.__name__ for kind in settings.__mro__}:
                continue
            for method in (node for node in owner.body if isinstance(node, ast.FunctionDef)):
                if not any("validator" in ast.unparse(decorator) for decorator in method.decorator_list):
                    found[method.name] = {
                        node.attr
                        for node in ast.walk(method)
                        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
                    }
    return found


def without_a_reader(settings: type[SharedSettings], taken: set[str]) -> set[str]:
    """The fields that are taken from the settings neither by name nor through a property."""
    behind, new = behind_properties(settings), taken
    while new:
        new = {name for found in new for name in behind.get(found, ())} - taken
        taken = taken | new
    return settings.model_fields.keys() - taken


@pytest.mark.parametrize("settings", SIDES)
def test_every_setting_is_read_by_its_side(settings: type[SharedSettings]) -> None:
    taken = {name for tree in sources(SIDES[settings]) for name in read_of_settings(tree)}

    assert without_a_reader(settings, taken) == set()


def test_a_setting_that_nobody_reads_is_seen() -> None:
    taken = set(
        read_of_settings(ast.parse("channel.dead_letter_ttl_seconds; settings.limits; _settings().model"))
    )

    missing = without_a_reader(WorkerSettings, taken)

    assert "dead_letter_ttl_seconds" in missing
    assert not missing & {"model", "max_documents", "max_request_characters"}


@pytest.mark.parametrize("name", sorted(OUTSIDE_THE_CLASSES))
def test_a_variable_outside_the_classes_is_read_somewhere(name: str) -> None:
    folders = [REPOSITORY / folder for folder in ("producer", "worker", "tests", "deploy", "benchmarks")]
    files = [file for folder in folders for file in folder.rglob("*.py") if _may_read(file)]

    assert [file for file in files if f'"{name}"' in file.read_text()] != []


def _may_read(file: Path) -> bool:
    return file.name not in ("variables.py", Path(__file__).name)
