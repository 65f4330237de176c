"""The adapters in an environment with their frameworks, asking a service by the queue and by HTTP."""

import os
import subprocess
import tomllib
from collections.abc import Iterator

import pytest

from tests.conftest import REPOSITORY
from tests.neighbours.environments.face import KEY, face_of
from tests.neighbours.side import side_environment
from tests.service import Service

EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
ADAPTERS = [*EXTRAS["langchain"], *EXTRAS["llama-index"]]
TOOLS = ["langchain-classic", "pytest", "pytest-timeout"]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service() as running:
        yield running


def test_the_adapters_rank_over_the_queue_and_over_http(service: Service) -> None:
    suite = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/integrations"]
    python = side_environment(*ADAPTERS, *TOOLS)

    with face_of(service) as url:
        asked = {"ASKED_QUEUE": service.redis.url, "ASKED_FACE": url, "ASKED_KEY": KEY}
        done = subprocess.run(
            [python, *suite], cwd=REPOSITORY, env={**os.environ, **asked}, capture_output=True, text=True
        )

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "skipped" not in done.stdout
