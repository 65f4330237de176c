"""The documents say what is so: the map's tree, the links, the verbs."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.house.tree import MAP, ROOMS, tree, tree_in

DOCUMENTS = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").glob("**/*.md"),
        *(REPOSITORY / "benchmarks").glob("*.md"),
    ]
)
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)#\s]+)(?:#[^)]*)?\)")
_PATH = re.compile(r"(?<![\w/])((?:[pw]|tests|deploy|docs)/[\w./-]*\w)")
_VERB = re.compile(r"`make ([a-z-]+)")
_MODULE = re.compile(r"python3? -m ((?:benchmarks|tests|training)[\w.]*)")
_COMMAND = re.compile(r"`rerankq ((?:model |dead )?[a-z][a-z-]*)")

_LEFT_OUT = re.compile(r"^collect_ignore.*", re.MULTILINE)
TESTS = REPOSITORY / "tests"


def test_the_tree_of_the_map_is_the_tree_of_the_files() -> None:
    assert tree_in(MAP.read_text(encoding="utf-8")) == tree(), "`make map` draws it anew"


def test_the_alerts_of_a_cluster_are_those_of_prometheus() -> None:
    program = [sys.executable, REPOSITORY / "deploy" / "prometheus_rule.py"]
    rule = REPOSITORY / "deploy" / "kubernetes" / "components" / "monitoring" / "alerts.yaml"

    written = subprocess.run(program, check=True, capture_output=True, text=True).stdout

    assert rule.read_text() == written, "`make prometheus-rule` writes it anew"


def test_every_room_is_in_the_picture_of_the_house() -> None:
    picture = MAP.read_text(encoding="utf-8").split("```")[1]
    rooms = [path.parent.name for side in ROOMS for path in (REPOSITORY / side).glob("*/__init__.py")]

    assert [room for room in rooms if not re.search(rf"\b{room}\b", picture)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_within_the_house_leads_somewhere(document: Path) -> None:
    targets = [link for link in _LINK.findall(document.read_text(encoding="utf-8")) if "://" not in link]

    lost = [target for target in targets if not (document.parent / target).exists()]

    assert lost == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_verb_and_command_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")

    unknown = {*_VERB.findall(text)} - _verbs(), {*_COMMAND.findall(text)} - _commands()

    assert unknown == (set(), set())


@pytest.mark.parametrize("document", [*DOCUMENTS, REPOSITORY / "Makefile"], ids=lambda path: path.name)
def test_every_program_that_a_document_names_can_be_run(document: Path) -> None:
    named = {name.rstrip(".") for name in _MODULE.findall(document.read_text(encoding="utf-8"))}

    assert [name for name in named if not _is_program(REPOSITORY / name.replace(".", "/"))] == []


def test_who_is_new_is_led_to_what_is_there() -> None:
    """What CONTRIBUTING.md says to open, by the short names that it gives the rooms."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {"p/": "producer/rerankq/", "w/": "worker/rerankq_worker/"}
    named = [rooms.get(path[:2], path[:2]) + path[2:] for path in _PATH.findall(text)]

    assert [path for path in named if not (REPOSITORY / path).exists()] == []
    assert {"CONTRIBUTING.md", "docs/decisions.md"} <= set(
        _LINK.findall((REPOSITORY / "README.md").read_text())
    )


def test_every_format_is_in_the_help_and_in_the_manual() -> None:
    from rerankq.bulk.formats import FORMATS
    from rerankq.cli.bulk import FORMATS_TOLD

    manual = (REPOSITORY / "docs" / "bulk.md").read_text(encoding="utf-8")

    assert set(re.findall(r"[a-z]+(?:-[a-z]+)*", FORMATS_TOLD)) >= FORMATS.keys()
    assert [name for name in FORMATS if f"`{name}`" not in manual] == []


def test_every_command_has_an_example_in_its_help() -> None:
    from typer.main import get_command

    from rerankq.cli.app import app

    assert [name for name, help_ in _helps(get_command(app)) if "Example" not in help_] == []


def test_make_alone_lists_every_verb() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout

    assert {line.split()[1] for line in listed.splitlines()} == _verbs()


def test_every_test_is_run_by_a_verb_that_ci_runs() -> None:
    """`make test` runs what no conftest.py leaves out; each left-out folder is named by a verb of its own."""
    runs = re.findall(r"-m pytest ([^#\n]*)", (REPOSITORY / "Makefile").read_text(encoding="utf-8"))
    named = {REPOSITORY / path for run in runs for path in re.findall(r"\btests/[\w/]+", run)}
    left_out = {
        conftest.parent / name
        for conftest in TESTS.rglob("conftest.py")
        for name in re.findall(r'"([^"]+)"', "".join(_LEFT_OUT.findall(conftest.read_text(encoding="utf-8"))))
    }
    ci = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
    verbs = {verb for verb in _verbs() if verb.startswith("test")}

    assert len(runs) == len(named) + 1 == len(verbs)
    assert left_out == named
    assert {*re.findall(r"\bmake ([\w-]+)", ci)} == verbs


def test_no_test_lies_where_pytest_does_not_look() -> None:
    elsewhere = [path for path in TESTS.rglob("*.py") if not path.name.startswith("test_")]

    with_tests = [
        path for path in elsewhere if re.search(r"^(async )?def test_", path.read_text(), re.MULTILINE)
    ]

    assert with_tests == [TESTS / "client" / "typed" / "right.py"]  # nobody runs it: a type checker reads it


def _helps(command: Any) -> Iterator[tuple[str, str]]:
    """Every command below this one, and what its help says."""
    for name, below in getattr(command, "commands", {}).items():
        if hasattr(below, "commands"):
            yield from _helps(below)
        else:
            yield name, below.help or ""


def _verbs() -> set[str]:
    phony = re.search(r"^\.PHONY: (.*)$", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony is not None
    return set(phony[1].split())


def _commands() -> set[str]:
    from rerankq.cli.app import app

    groups = [(group.name, group.typer_instance) for group in app.registered_groups]
    nested = {
        f"{name} {_name_of(command)}"
        for name, group in groups
        if group is not None
        for command in group.registered_commands
    }
    return (
        nested
        | {_name_of(command) for command in app.registered_commands}
        | {str(name) for name, _ in groups}
    )


def _name_of(command: object) -> str:
    name, callback = getattr(command, "name", None), getattr(command, "callback", None)
    return name or callback.__name__  # type: ignore[union-attr]


def _is_program(place: Path) -> bool:
    return place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
