"""The libraries that a worker computes and queues with: their versions, and whether they can be imported together."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Self

from rerankq.contract.findings import Finding, broken, ok, warn
from rerankq.contract.requirements import check_requirements, pip_install, version_of

IMPORT_SECONDS = 18.0
_SHOWN = ("torch", "transformers", "sentence-transformers", "celery", "kombu")
_NOT_ALWAYS = ("sentence-transformers", "nvidia-ml-py", "prometheus-client")
"""Of use to some models, to GPUs, to metrics."""
_PROBE = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
import torch
print(json.dumps({"cuda": torch.version.cuda, "sees_gpu": torch.cuda.is_available()}))
"""
TOO_SLOW = (
    f"importing torch and transformers takes over {IMPORT_SECONDS:.0f} s: so does each start of an engine"
)
_MISSING = re.compile(r"No module named '([\w.]+)'")
_APART = "python -m venv .venv && .venv/bin/pip install 'rerankq[worker]'"


@dataclass(frozen=True, slots=True)
class Sight:
    """What the installed torch is built for, and sees here."""

    cuda: str | None
    """The version of CUDA that it was built with."""
    sees_gpu: bool


def findings(engine: str) -> Iterator[Finding]:
    """Their versions, as far as metadata tells; `engine`, where it is known, computes the model."""
    may_lack = [name for name in _NOT_ALWAYS if name != engine]
    there = [f"{name} {version}" for name in _SHOWN if (version := version_of(name))]
    versions = check_requirements("libraries", ", ".join(there), ("worker",), may_lack)
    yield _with_keras(versions)
    yield _transport()


def _with_keras(found: Finding) -> Finding:
    """What people meet is a word about Keras; its cause is transformers 4 beside it."""
    keras = version_of("keras") or ""
    if "transformers" not in found.text or found.verdict != "broken" or not keras.startswith("3"):
        return found
    told = f"{found.text}; transformers 4 refuses Keras {keras} beside it, transformers 5 has nothing to do with it"
    return broken(found.check, told, found.cure)


def imported(sight: Sight | str) -> Finding:
    """What only an import tells."""
    check = "libraries.import"
    if isinstance(sight, Sight):
        return ok(check, "what computes can be imported")
    if sight == TOO_SLOW:
        return warn(check, TOO_SLOW, f"{sys.executable} -m compileall -q {sys.prefix}")
    return broken(check, f"what computes cannot be imported: {sight}", cure_of(sight))


class Importing:
    """`with Importing(engine) as importing:`; all that an engine needs is imported beside us, in a process of its own.

    It takes seconds, may crash, and no CUDA is to be touched here.
    """

    def __init__(self, engine: str) -> None:
        names = ["torch", "transformers"]
        if engine == "sentence-transformers":
            names.append("sentence_transformers")
        self._command = [sys.executable, "-c", _PROBE, *names]

    def __enter__(self) -> Self:
        self._give_up_at = time.monotonic() + IMPORT_SECONDS
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @cache  # noqa: B019 - lives as long as one report
    def sight(self) -> Sight | str:
        """What torch sees, or the last line that importing it says; waited for."""
        try:
            out, err = self._process.communicate(timeout=max(0.0, self._give_up_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            return TOO_SLOW
        if self._process.returncode == 0:
            return Sight(**json.loads(out.strip().splitlines()[-1]))
        return (err.strip().splitlines() or [f"it ended with {self._process.returncode}"])[-1]


def cure_of(said: str) -> str:
    """What to type where importing a library says this."""
    missing = _MISSING.search(said)
    if missing is not None:
        return pip_install(missing[1].split(".")[0])
    if "Keras" in said or "tf_keras" in said or "tensorflow" in said.lower():
        return pip_install("transformers", "sentence-transformers")
    if "cu" in said and ".so" in said:
        return "pip install --force-reinstall torch"
    return _APART


def _transport() -> Finding:
    try:
        from rerankq.contract.transport.connection import refuse_unknown_kombu

        refuse_unknown_kombu()
    except ImportError as error:
        return broken("transport", f"Celery's parts cannot be imported: {error}", cure_of(str(error)))
    except RuntimeError as error:
        return broken("transport", str(error).partition("; ")[0], pip_install("kombu", "celery", "billiard"))
    return ok("transport", f"kombu {version_of('kombu')} is one that it was tested against")
