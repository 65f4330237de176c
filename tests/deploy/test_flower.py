"""Flower as its image starts it: our app, our options, and nobody in without the secret."""

import base64
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.compose_rules import ROOT
from tests.redis_server import RedisServer, free_port

FLOWER = ROOT / "deploy" / "flower"
STARTS_WITHIN_SECONDS = 30.0


def command(conf: Path) -> list[str]:
    """The CMD of the image, with its file from the repository."""
    return [sys.executable, "-m", "celery", "-A", "rerankq_flower", "flower", f"--conf={conf}"]


@pytest.fixture(scope="module")
def flower_url(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Flower whose user is admin:secret."""
    directory = tmp_path_factory.mktemp("flower")
    (directory / "flower_basic_auth").write_text("admin:secret")
    (directory / "rerankq_broker_url").write_text(redis_server.url)
    conf = directory / "flowerconfig.py"
    text = (FLOWER / "flowerconfig.py").read_text()
    conf.write_text(
        text.replace("/data/flower", str(directory / "flower.db")).replace("0.0.0.0", "127.0.0.1")
    )
    port = free_port()
    process = subprocess.Popen(
        [*command(conf), f"--port={port}"], cwd=FLOWER, env=environment(directory), stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=10)


def environment(secrets: Path) -> dict[str, str]:
    """Our environment, with the secrets in another place."""
    return {**os.environ, "RERANKQ_SECRETS_DIR": str(secrets), "PYTHONDONTWRITEBYTECODE": "1"}


def wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
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


def status(url: str, user: str | None = None) -> int:
    """The HTTP status of a page."""
    request = urllib.request.Request(url)
    if user is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize("page", ["/workers", "/api/tasks"])
def test_a_page_is_shown_to_who_knows_the_secret_alone(flower_url: str, page: str) -> None:
    assert status(flower_url + page) == 401
    assert status(flower_url + page, "admin:guess") == 401
    assert status(flower_url + page, "admin:secret") == 200


def test_metrics_ask_for_no_password_which_is_why_the_port_stays_on_loopback(flower_url: str) -> None:
    assert status(flower_url + "/metrics") == 200


@pytest.mark.parametrize("secret", [None, "", "admin"], ids=["no file", "empty", "no password"])
def test_flower_refuses_to_start_without_a_user(tmp_path: Path, secret: str | None) -> None:
    if secret is not None:
        (tmp_path / "flower_basic_auth").write_text(secret)

    done = subprocess.run(
        [sys.executable, str(FLOWER / "flowerconfig.py")],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "expected" in done.stderr
    assert "name:password" in done.stderr
