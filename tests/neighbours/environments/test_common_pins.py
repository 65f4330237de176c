"""The asking side where other versions of Celery, of redis-py and of all else are installed than ours, or none."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.neighbours.side import side_environment
from tests.redis_server import RedisServer
from tests.service import Service

OLDEST = ["pydantic==2.10.*", "pydantic-settings==2.7.*", "typer==0.19.*", "rich==13.0.*", "orjson==3.10.*"]
ENVIRONMENTS = [
    pytest.param(["celery[redis]==5.5.*", "redis==5.2.*", *OLDEST], id="celery 5.5, the oldest of all else"),
    pytest.param(["celery[redis]==5.6.*", "redis==6.4.*"], id="celery 5.6, redis 6.4"),
    pytest.param(["celery[redis]==5.7.*", "redis==7.*"], id="celery 5.7, redis 7"),
    pytest.param(["redis==8.*"], id="redis 8, no celery"),
]
SMOKE = Path(__file__).with_name("smoke.py")


@pytest.fixture(scope="module")
def full_redis() -> Iterator[RedisServer]:
    with RedisServer(maxmemory="100kb") as server:
        yield server


def run(service: Service, *command: object, **more: str) -> subprocess.CompletedProcess[str]:
    """In the directory, and with the variables, of somebody who has none of our checkout."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = {**kept, "RERANKQ_BROKER_URL": service.redis.url, **more}
    return subprocess.run(
        [str(word) for word in command],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("requirements", ENVIRONMENTS)
def test_clients_ask_and_are_told_what_went_wrong(
    requirements: list[str], service: Service, full_redis: RedisServer
) -> None:
    done = run(service, side_environment(*requirements), "-W", "error", SMOKE, FULL_REDIS=full_redis.url)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("requirements", ENVIRONMENTS)
def test_the_command_answers(requirements: list[str], service: Service) -> None:
    command = side_environment(*requirements).with_name("rerankq")

    ranked = run(service, command, "rerank", "panda", "a bear", "a bird", "--json")
    dead = run(service, command, "dead", "list")
    alone = run(service, command, "up")

    assert ranked.returncode == 0, ranked.stderr
    assert '"scored":2' in ranked.stdout.replace(" ", "")
    assert (dead.returncode, dead.stderr) == (0, "")
    assert "pip install 'rerankq[worker,local]'" in alone.stderr
    assert "Traceback" not in alone.stderr
