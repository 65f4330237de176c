"""Run what needs torch in a process of its own, for rooms that have none: its errors come back as a model's."""

import os
import subprocess
import sys
from pathlib import Path

from rerankq_worker.model.errors import ModelBroken

HANDED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV")
"""Of our environment: nothing that is a secret."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def run_apart(module: str, *paths: Path) -> None:
    """Run a module of ours, without network, GPU or secrets; the last path is where it writes, for everybody to read.

    Raises:
        ModelBroken: it failed; with the last line of what it said.
    """
    environment = {name: value for name, value in os.environ.items() if name in HANDED_ON}
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", module, *(str(path.resolve()) for path in paths)],
        env=environment | OFFLINE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"{module} ended with {done.returncode}, without a word"]
        raise ModelBroken(said[-1])
    for written in paths[-1].rglob("*"):  # safetensors' are the owner's alone
        written.chmod(0o755 if written.is_dir() else 0o644)
