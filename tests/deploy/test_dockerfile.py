"""deploy/Dockerfile, checked without an engine: hadolint, our own rules, and that both can say no."""

import re
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from rerankq.contract.settings import PREFIX
from rerankq.contract.variables import VARIABLES
from tests.deploy.compose_rules import ROOT, is_pinned

HADOLINT = Path(sysconfig.get_path("scripts")) / "hadolint"
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
ALLOWED = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text()


def _lint(dockerfile: str) -> subprocess.CompletedProcess[str]:
    command = [str(HADOLINT), "--no-color", "-"]
    return subprocess.run(command, input=dockerfile, capture_output=True, text=True, check=False)


def test_hadolint_has_nothing_to_say() -> None:
    lint = _lint(DOCKERFILE)

    assert (lint.returncode, lint.stdout) == (0, "")


def test_hadolint_sees_a_shell_form_command() -> None:
    lint = _lint(DOCKERFILE.replace('CMD ["rerankq-worker"]', "CMD rerankq-worker"))

    assert "DL3025" in lint.stdout


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """Each instruction and its text; comments gone, lines joined."""
    bare = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE)
    for line in bare.replace("\\\n", " ").splitlines():
        word, _, text = line.strip().partition(" ")
        if word:
            yield word, text.strip()


def images_end_without_root(dockerfile: str) -> Iterator[str]:
    """Every image that runs, that is, every stage with a CMD, names a user by number."""
    user = stage = ""
    for word, text in instructions(dockerfile):
        if word == "FROM":
            stage, user = text.rpartition(" AS ")[2], ""
        if word == "USER":
            user = text.partition(":")[0]
        if word == "CMD" and (not user.isdigit() or int(user) == 0):
            yield f"image {stage} runs as {user or 'root'}"


def bases_are_pinned(dockerfile: str) -> Iterator[str]:
    """The base of all stages has a version."""
    for word, text in instructions(dockerfile):
        name, _, image = text.partition("=")
        if word == "ARG" and name.endswith("_IMAGE") and not is_pinned(image):
            yield f"{name}={image} names no version"


def every_variable_is_a_setting(dockerfile: str) -> Iterator[str]:
    """No RERANKQ_ name is misspelt: a worker would refuse to start with it."""
    for name in sorted(set(re.findall(rf"\b{PREFIX}[A-Z0-9_]+", dockerfile))):
        if name not in VARIABLES:
            yield f"no setting is called {name}"


def everything_copied_is_sent(dockerfile: str) -> Iterator[str]:
    """Whatever is copied in passes `.dockerignore`, which lets nothing else through."""
    allowed = [line[1:] for line in ALLOWED.splitlines() if line.startswith("!")]
    for word, text in instructions(dockerfile):
        if word != "COPY" or "--from=" in text:
            continue
        for source in text.split()[:-1]:
            if not any(fnmatch(source.rstrip("/"), pattern) for pattern in allowed):
                yield f"{source} is copied but ignored"


RULES = [
    images_end_without_root,
    bases_are_pinned,
    every_variable_is_a_setting,
    everything_copied_is_sent,
]


@pytest.mark.parametrize("rule", RULES)
def test_the_dockerfile_keeps_the_rule(rule: Callable[[str], Iterator[str]]) -> None:
    assert list(rule(DOCKERFILE)) == []


@pytest.mark.parametrize(
    ("rule", "was", "becomes", "complaint"),
    [
        (
            images_end_without_root,
            "USER 10001:10001\nEXPOSE 9464",
            "EXPOSE 9464",
            "image worker runs as root",
        ),
        (images_end_without_root, "USER 10001:10001\nEXPOSE 5555", "USER 0", "image flower runs as 0"),
        (bases_are_pinned, "=python:3.11.14-slim-bookworm", "=python:latest", "PYTHON_IMAGE=python:latest"),
        (every_variable_is_a_setting, "RERANKQ_RUNTIME_DIR", "RERANKQ_RUN_DIR", "called RERANKQ_RUN_DIR"),
        (everything_copied_is_sent, "COPY constraints.txt", "COPY .env", ".env is copied but ignored"),
    ],
)
def test_a_rule_reports_what_breaks_it(
    rule: Callable[[str], Iterator[str]], was: str, becomes: str, complaint: str
) -> None:
    broken = DOCKERFILE.replace(was, becomes)

    assert any(complaint in complained for complained in rule(broken))


def test_everything_copied_exists() -> None:
    sources = [
        source
        for word, text in instructions(DOCKERFILE)
        if word == "COPY" and "--from=" not in text
        for source in text.split()[:-1]
    ]

    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_every_build_of_compose_names_a_stage_and_an_argument_that_exist() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    builds = [service["build"] for service in compose["services"].values() if "build" in service]
    stages = {text.rpartition(" AS ")[2] for word, text in instructions(DOCKERFILE) if word == "FROM"}
    arguments = {text.partition("=")[0] for word, text in instructions(DOCKERFILE) if word == "ARG"}

    assert {build["target"] for build in builds} <= stages
    assert {name for build in builds for name in build.get("args", {})} <= arguments
    assert {build["dockerfile"] for build in builds} == {"deploy/Dockerfile"}
