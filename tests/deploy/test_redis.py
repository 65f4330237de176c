"""deploy/redis/redis.conf and the users that make_secrets.py writes, tried on a real Redis."""

import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import yaml
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.retry import Retry

from rerankq.contract.broker import celery_app, queue_of
from tests.deploy.compose_rules import ROOT
from tests.redis_server import find_redis_server, free_port

MAKE_SECRETS = ROOT / "deploy" / "make_secrets.py"
STARTS_WITHIN_SECONDS = 10.0


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of fresh secrets."""
    directory = tmp_path_factory.mktemp("deploy") / "secrets"
    make_secrets(directory)
    return directory


def make_secrets(directory: Path) -> str:
    """Run the script as its reader would; what it printed."""
    command = [sys.executable, str(MAKE_SECRETS), str(directory)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def redis_url(secrets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The broker URL of the secrets, leading to a Redis with our redis.conf and our users."""
    directory = tmp_path_factory.mktemp("redis")
    conf = (ROOT / "deploy" / "redis" / "redis.conf").read_text()
    for was, becomes in {"/run/secrets": str(secrets), "dir /data": f"dir {directory}"}.items():
        assert was in conf
        conf = conf.replace(was, becomes)
    (directory / "redis.conf").write_text(conf)
    port = free_port()
    command = [find_redis_server(), str(directory / "redis.conf"), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for_pong(port)
        yield (secrets / "rerankq_broker_url").read_text().replace("@redis:6379", f"@127.0.0.1:{port}")
    finally:
        server.kill()
        server.wait()


def wait_for_pong(port: int) -> None:
    """Ask as the health check of compose asks."""
    deadline = time.monotonic() + STARTS_WITHIN_SECONDS
    while time.monotonic() < deadline:
        try:
            with redis.Redis(port=port, username="health", password="none") as client:
                if client.ping():
                    return
        except redis.ConnectionError:
            time.sleep(0.02)
    raise RuntimeError("redis-server did not answer with our redis.conf")


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("maxmemory-policy", "noeviction"),
        ("maxmemory", str(2 * 1024**3)),
        ("save", ""),
    ],
)
def test_redis_takes_the_setting(client: redis.Redis, setting: str, value: str) -> None:
    assert client.config_get(setting) == {setting: value}


def test_a_celery_app_of_ours_may_send_and_be_asked(redis_url: str, client: redis.Redis) -> None:
    app = celery_app("test", redis_url, redis_url, socket_timeout_seconds=2.0, result_ttl_seconds=60)

    app.send_task("rerankq.rerank", kwargs={}, queue=queue_of("bulk"))
    replies = app.control.ping(timeout=0.1)

    assert replies == []
    assert client.llen(queue_of("bulk")) == 1
    app.close()


def test_admission_may_read_the_memory_and_its_limit(client: redis.Redis) -> None:
    memory = client.info("memory")

    assert memory["maxmemory"] == 2 * 1024**3
    assert memory["used_memory"] > 0


@pytest.mark.parametrize("command", ["FLUSHALL", "KEYS *", "SHUTDOWN", "CONFIG SET maxmemory 0", "ACL LIST"])
def test_the_user_of_the_service_may_not_do_harm(client: redis.Redis, command: str) -> None:
    with pytest.raises(NoPermissionError):
        client.execute_command(*command.split())


def test_nobody_enters_without_a_password(redis_url: str) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])

    with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as stranger, pytest.raises(AuthenticationError):
        stranger.ping()


def test_the_user_of_the_health_check_may_only_ping(redis_url: str) -> None:
    port = int(redis_url.rpartition(":")[2].partition("/")[0])

    with redis.Redis(port=port, username="health", password="none") as health:
        assert health.ping()
        with pytest.raises(NoPermissionError):
            health.get("celery")


def test_a_second_run_keeps_the_secrets(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}

    said = make_secrets(secrets)

    assert "already holds secrets" in said
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before


def test_secrets_are_behind_a_directory_that_only_their_owner_enters(secrets: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o644}


def test_every_secret_of_compose_and_kubernetes_is_written(secrets: Path) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    kustomization = yaml.safe_load((ROOT / "deploy" / "kustomization.yaml").read_text())
    wanted = {Path(secret["file"]).name for secret in compose["secrets"].values()}
    wanted |= {Path(file).name for made in kustomization["secretGenerator"] for file in made.get("files", [])}

    assert wanted == {path.name for path in secrets.iterdir()}
