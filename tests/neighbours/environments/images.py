"""deploy/Dockerfile carried out without an engine, in a plain directory, by whoever runs the tests.

A path of the image, `/opt/rerankq`, lies below one directory, `HOME/root`, which is each stage's in turn, so that a
path that one stage wrote down leads to the right place in another. Every step runs as a user without rights over other
people's files, also where the tests run as root.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.deploy.test_dockerfile import ALLOWED, DOCKERFILE, instructions

CONTEXT = Path(__file__).parents[3]
IMAGE_PATH = re.compile(r"(?<![\w./}-])/(opt/rerankq|app|data|models|build|tmp|run/secrets)\b")
"""What an image has of its own; everything else is its base's, and here this machine's."""
WRITABLE = ("tmp", "data", "models")
UNAVAILABLE = re.compile(
    r"No matching distribution|Could not find a version|Name or service not known|timed out"
)

# Who may make users needs no test of it; that a directory is made is what the next steps stand on.
STAND_INS = {
    "groupadd": "#!/bin/sh\n",
    "useradd": "#!/bin/sh\n",
    "install": '#!/bin/sh\nfor word; do case "$word" in -*) ;; *) mkdir -p "$word" ;; esac; done\n',
}


class Images:
    """All stages of the Dockerfile; `image("worker")` carries out what that one needs, once."""

    def __init__(self, home: Path, arguments: Mapping[str, str]) -> None:
        """`arguments` are build arguments."""
        self._home, self._arguments = home, dict(arguments)
        self._steps = _steps_by_stage()
        self._stages: dict[str, Image] = {}
        (home / "stages").mkdir(parents=True)
        self._context, programs = home / "context", home / "programs"
        _copy_context(self._context)
        programs.mkdir()
        for name, text in STAND_INS.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        (programs / "python").symlink_to(Path(sys.executable).resolve())
        self._base = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(home / "root" / "root")}
        # What RUN mounts; and what is never imported need not be compiled here.
        self._pip = {"PIP_CACHE_DIR": str(home / "cache"), "PIP_NO_COMPILE": "1"}

    def image(self, name: str) -> "Image":
        """A stage with all that it is built on, its root in its place."""
        if name not in self._stages:
            self._stages[name] = self._built(name)
        return self._stages[name].in_its_place()

    def _built(self, name: str) -> "Image":
        base, steps = self._steps[name]
        image = Image(self._home, name, self._base)
        if base in self._steps:
            image.take_over(self.image(base))
        else:
            for folder in (*WRITABLE, "root"):
                (image.directory / folder).mkdir(parents=True)
        image.in_its_place()
        for word, text in steps:
            getattr(self, f"_{word.lower()}")(image, text)
        return image

    def _arg(self, image: "Image", text: str) -> None:
        name, _, default = text.partition("=")
        image.arguments[name] = self._arguments.get(name, default)

    def _env(self, image: "Image", text: str) -> None:
        for name, value in (word.split("=", 1) for word in shlex.split(text)):
            image.environment[name] = image.mapped(value).replace("$PATH", image.environment["PATH"])

    def _workdir(self, image: "Image", text: str) -> None:
        image.workdir = Path(image.mapped(text))
        image.workdir.mkdir(parents=True, exist_ok=True)

    def _user(self, image: "Image", text: str) -> None:
        image.user = text

    def _cmd(self, image: "Image", text: str) -> None:
        image.command = [image.mapped(word) for word in re.findall(r'"(.*?)"', text)]

    def _expose(self, image: "Image", text: str) -> None:
        image.port = int(text)

    def _run(self, image: "Image", text: str) -> None:
        command = re.sub(r"--mount=type=cache\S+\s*", "", text)
        done = image.run("sh", "-ec", image.mapped(command), **self._pip)
        if done.returncode and UNAVAILABLE.search(done.stderr):
            pytest.skip(f"`{command.strip()}`: {done.stderr.strip().splitlines()[-1]}")
        assert done.returncode == 0, f"RUN {command}\n{done.stdout}{done.stderr}"

    def _copy(self, image: "Image", text: str) -> None:
        origin, words = self._context, text.split()
        if words[0].startswith("--from="):
            origin = self.image(words.pop(0).removeprefix("--from=")).directory
            image.in_its_place()
        *sources, target = words
        into = image.workdir / image.mapped(target)
        for source in (origin / each.lstrip("/") for each in sources):
            _copy(source, into if source.is_dir() else into / source.name)


class Image:
    """A stage, or an image: its files, and what its environment is."""

    def __init__(self, home: Path, name: str, environment: Mapping[str, str]) -> None:
        self.directory = home / "stages" / name
        self._root = home / "root"
        self.environment, self.arguments = dict(environment), dict[str, str]()
        self.workdir, self.user, self.command, self.port = self._root, "", list[str](), 0

    def take_over(self, base: "Image") -> None:
        """Begin where another stage ends."""
        subprocess.run(["cp", "--archive", base.directory, self.directory], check=True)
        self.environment, self.arguments = dict(base.environment), dict(base.arguments)
        self.workdir = base.workdir

    def in_its_place(self) -> "Image":
        """This image, its files being those below the one root."""
        self._root.unlink(missing_ok=True)
        self._root.symlink_to(self.directory)
        return self

    def mapped(self, text: str) -> str:
        """A text whose paths of the image are where they are here."""
        return IMAGE_PATH.sub(rf"{self._root}/\1", text)

    def path(self, of_image: str) -> Path:
        """Where a path of the image is here."""
        return Path(self.mapped(of_image))

    def mount(self, path: str, source: Path) -> None:
        """What lies elsewhere, to be read only."""
        shutil.rmtree(self.path(path), ignore_errors=True)
        _copy(source, self.path(path))
        subprocess.run(["chmod", "-R", "a-w", self.path(path)], check=True)

    def made_read_only(self) -> "Image":
        """Its root as Compose and Kubernetes run it: /tmp and the volumes alone can be written."""
        for folder in self.directory.iterdir():
            if folder.name not in WRITABLE:
                subprocess.run(["chmod", "-R", "a-w", folder], check=True)
        return self

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """What a command says, as this image's user."""
        told = self._told(environment)
        return subprocess.run(
            as_nobody(command), cwd=self.workdir, env=told, capture_output=True, text=True, check=False
        )

    def start(self, log: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Its CMD."""
        told = self._told(environment)
        with log.open("wb") as written:
            return subprocess.Popen(
                as_nobody(self.command), cwd=self.workdir, env=told, stdout=written, stderr=written
            )

    def _told(self, environment: Mapping[str, str]) -> dict[str, str]:
        pip = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("PIP_", "SSL_", "REQUESTS_"))
        }
        return {**pip, **self.arguments, **self.environment, **environment}


def as_nobody(command: list[str] | tuple[str, ...]) -> list[str]:
    """The command, without root's rights where it would have them."""
    if os.getuid():
        return list(command)
    if shutil.which("unshare") is None:
        pytest.skip("these tests run as root, and there is no unshare to be less")
    return ["unshare", "--user", *command]


def _steps_by_stage() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """The base and the instructions of each stage; those before the first are for all."""
    stages: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    steps: list[tuple[str, str]] = []
    for word, text in instructions(DOCKERFILE):
        if word == "FROM":
            base, name = text.split(" AS ")
            steps = []
            stages[name] = (base, steps)
        else:
            steps.append((word, text))
    return stages


def _copy_context(target: Path) -> None:
    """What `.dockerignore` lets through, where nobody may write."""
    allowed = [line[1:] for line in ALLOWED.splitlines() if line.startswith("!")]
    ignored = shutil.ignore_patterns(
        *(line.removeprefix("**/") for line in ALLOWED.splitlines() if line.startswith("**"))
    )
    for path in allowed:
        into = target / path
        into.parent.mkdir(parents=True, exist_ok=True)
        if (CONTEXT / path).is_dir():
            shutil.copytree(CONTEXT / path, into, ignore=ignored)
        else:
            shutil.copyfile(CONTEXT / path, into)
    subprocess.run(["chmod", "-R", "a-w", target], check=True)


def _copy(source: Path, target: Path) -> None:
    """A file, or what is in a directory; as Docker does it, the owner may write again."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "--archive", "--link", f"{source}/.", target], check=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
