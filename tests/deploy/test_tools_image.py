"""What the images run is there, and the one that fetches the model does without torch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.test_dockerfile import DOCKERFILE

WORKER_EXTRA_LEFT_OUT = (
    *("torch", "transformers", "sentence_transformers", "prometheus_client", "pynvml", "numpy"),
    *("celery", "kombu", "billiard"),
)
# None in sys.modules makes an import fail as if the package were not installed.
PROGRAM = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({WORKER_EXTRA_LEFT_OUT!r}))
sys.argv = ["rerankq-worker", "pull"]
runpy.run_module("rerankq_worker", run_name="__main__")
"""


FACE = f"""
import sys
sys.modules.update(dict.fromkeys(set({WORKER_EXTRA_LEFT_OUT!r}) - {{"prometheus_client"}}))
from rerankq.http.server import configured
from rerankq.http.settings import HttpSettings
configured(HttpSettings.load()).load()
"""


@pytest.mark.parametrize("verb", ["health", "pull"])
def test_a_command_that_compose_runs_is_there(verb: str) -> None:
    command = [sys.executable, "-m", "rerankq_worker", verb, "--help"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_a_model_is_pulled_where_torch_is_not_installed(tmp_path: Path) -> None:
    environment = {**os.environ, "RERANKQ_MODEL": "small", "RERANKQ_CACHE_DIR": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("model.safetensors"))


def test_the_http_face_needs_neither_torch_nor_celery() -> None:
    done = subprocess.run([sys.executable, "-c", FACE], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_the_tools_image_installs_no_extra() -> None:
    stage = re.search(r"AS build-tools\n(.*?)\nFROM", DOCKERFILE, re.DOTALL)

    assert stage is not None
    assert "[worker]" not in stage[1]
