"""Flower as its image starts it, on a free port of loopback."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.redis_server import free_port

FLOWER = REPOSITORY / "deploy" / "flower"
STARTS_WITHIN_SECONDS = 30.0


@contextmanager
def running_flower(broker_url: str, directory: Path) -> Iterator[str]:
    """The address of a Flower that watches this Redis; its user is admin:secret, its files are in `directory`."""
    (directory / "flower_basic_auth").write_text("admin:secret")
    (directory / "rerankq_broker_url").write_text(broker_url)
    conf = directory / "flowerconfig.py"
    text = (FLOWER / "flowerconfig.py").read_text()
    conf.write_text(
        text.replace("/data/flower", str(directory / "flower.db")).replace("0.0.0.0", "127.0.0.1")
    )
    port = free_port()
    process = subprocess.Popen(
        [*_command(conf), f"--port={port}"],
        cwd=FLOWER,
        env=flower_environment(directory),
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=10)


def flower_environment(secrets: Path) -> dict[str, str]:
    """Our environment without a setting of ours, but for where the secrets are."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("RERANKQ_")}
    return {**mine, "RERANKQ_SECRETS_DIR": str(secrets), "PYTHONDONTWRITEBYTECODE": "1"}


def _command(conf: Path) -> list[str]:
    """The CMD of the image, with its file from the repository."""
    return [sys.executable, "-m", "celery", "-A", "rerankq_flower", "flower", f"--conf={conf}"]


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    """Ask as the health check of compose asks."""
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/healthcheck", timeout=3).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("Flower did not become healthy")
