"""Every route of `/openapi.json`, asked by schemathesis for what it takes and for what it must refuse."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from rerankq.http import ranking
from tests.neighbours.side import side_environment
from tests.redis_server import free_port
from tests.service import TIED, Service

KEY = "secret"
PACKAGES = ["schemathesis>=4.32,<5", "openapi-spec-validator>=0.7"]
ENDS_WITHIN_SECONDS = 500
RERANK = [word for path in ranking.PATHS for word in ("--include-path", path)]
CHOSEN = {
    # A schema's corners cost a thousand requests, and a job's has all that these have.
    "the names of rerank": [*RERANK, "--phases", "examples,fuzzing", "--max-examples", "15"],
    "all others": [word.replace("include", "exclude") for word in RERANK] + ["--max-examples", "10"],
}


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    """Where `rerankq serve` answers."""
    port = free_port()
    settings = {
        "RERANKQ_HTTP_KEYS": KEY,
        "RERANKQ_HTTP_PORT": str(port),
        "RERANKQ_REDIS_TIMEOUT_SECONDS": "5",
    }
    command = [*TIED, str(os.getpid()), sys.executable, "-m", "rerankq.cli", "serve"]
    with subprocess.Popen(command, env=service.environment | settings) as server:
        url = f"http://127.0.0.1:{port}"
        service.wait_until(lambda: _answers(f"{url}/health"))
        yield url
        server.terminate()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except URLError:
        return False


@pytest.mark.parametrize("chosen", CHOSEN.values(), ids=CHOSEN)
def test_what_is_written_holds(address: str, chosen: list[str]) -> None:
    python = side_environment(*PACKAGES)
    command = [python, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", *chosen]
    command += ["--header", f"Authorization: Bearer {KEY}", "--checks", "all"]
    # DELETE calls a job off; that it was called off is told for as long as its record is kept.
    command += ["--exclude-checks", "use_after_free"]
    command += ["--generation-deterministic", "--suppress-health-check", "all"]
    hooks = {"SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(Path(__file__).parent)}

    done = subprocess.run(
        [*command, "--request-timeout", "60", "--no-color"],
        env=os.environ | hooks,
        cwd=python.parent,
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN_SECONDS,
    )

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_it_is_an_openapi_document(address: str, tmp_path: Path) -> None:
    with urlopen(f"{address}/openapi.json", timeout=5) as reply:
        (tmp_path / "openapi.json").write_bytes(reply.read())

    validate = [side_environment(*PACKAGES), "-m", "openapi_spec_validator", tmp_path / "openapi.json"]
    done = subprocess.run(validate, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout
