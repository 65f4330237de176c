"""Flower as its image starts it: our app, our options, and nobody in without the secret."""

import base64
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flower import FLOWER, flower_environment, running_flower
from tests.redis_server import RedisServer


@pytest.fixture(scope="module")
def flower_url(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_flower(redis_server.url, tmp_path_factory.mktemp("flower")) as url:
        yield url


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
        env=flower_environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "expected" in done.stderr
    assert "name:password" in done.stderr
