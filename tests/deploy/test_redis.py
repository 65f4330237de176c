"""deploy/redis/redis.conf and the users that make_secrets.py writes, tried on a real Redis; the manual's procedures."""

import json
import os
import re
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

from rerankq.contract.broker import celery_app
from rerankq.contract.keys import queue_of
from tests.deploy.compose_rules import ROOT
from tests.doctor.stand_ins import light_libraries
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
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What /data is in the container of Redis."""
    return tmp_path_factory.mktemp("redis")


@pytest.fixture(scope="module")
def redis_url(secrets: Path, data: Path) -> Iterator[str]:
    """The broker URL of the secrets, leading to a Redis with our redis.conf and our users."""
    directory = data
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


@pytest.fixture
def admin(redis_url: str, secrets: Path) -> Iterator[redis.Redis]:
    password = (secrets / "redis_admin_password").read_text()
    with redis.Redis(
        port=_port(redis_url), username="admin", password=password, decode_responses=True
    ) as client:
        yield client


def _port(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


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
def test_redis_takes_the_setting(admin: redis.Redis, setting: str, value: str) -> None:
    assert admin.config_get(setting) == {setting: value}


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
    with (
        redis.Redis(port=_port(redis_url), retry=Retry(NoBackoff(), 0)) as stranger,
        pytest.raises(AuthenticationError),
    ):
        stranger.ping()


def test_the_user_of_the_health_check_may_only_ping(redis_url: str) -> None:
    with redis.Redis(port=_port(redis_url), username="health", password="none") as health:
        assert health.ping()
        with pytest.raises(NoPermissionError):
            health.get("celery")


def test_a_second_run_keeps_the_secrets(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}

    said = make_secrets(secrets)

    assert "already holds secrets" in said
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before


def test_a_secret_that_an_older_release_did_not_write_is_added(secrets: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir() if "http" not in path.name}
    for name, text in before.items():
        (tmp_path / name).write_text(text)

    make_secrets(tmp_path)

    after = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert after == before | dict.fromkeys(
        ("rerankq_http_key", "rerankq_http_keys"), after["rerankq_http_key"]
    )


def test_secrets_are_behind_a_directory_that_only_their_owner_enters(secrets: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o644}


def test_every_secret_of_compose_and_kubernetes_is_written(secrets: Path) -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    kustomization = yaml.safe_load((ROOT / "deploy" / "kustomization.yaml").read_text())
    wanted = {Path(secret["file"]).name for secret in compose["secrets"].values()}
    wanted |= {Path(file).name for made in kustomization["secretGenerator"] for file in made.get("files", [])}

    assert wanted == {path.name for path in secrets.iterdir()}


# -- the procedures of the manual, word for word, with the container played by this machine

DOCKER = """#!PYTHON
import os, shutil, subprocess, sys
secrets, data = os.environ["SECRETS"], os.environ["DATA"]
match sys.argv[1:]:
    case ["compose", "exec", "-T", "redis", *command]:
        sys.exit(subprocess.run([word.replace("/run/secrets", secrets) for word in command]).returncode)
    case ["compose", "run", "--rm", "admin", *command]:
        import yaml
        admin = yaml.safe_load(open(os.environ["COMPOSE"]))["services"]["admin"]
        words = [word.replace("$$", "$") for word in [*admin["entrypoint"], *command]]
        for was, becomes in {"/run/secrets": secrets, "redis:6379": os.environ["REDIS"]}.items():
            words = [word.replace(was, becomes) for word in words]
        sys.exit(subprocess.run(words).returncode)
    case ["compose", "cp", source, target]:
        assert source == "redis:/data", source
        shutil.copytree(data, target)
    case ["compose", *words] if "up" in words:
        pass
    case other:
        sys.exit(f"a docker that knows no {other}")
"""


class Operator:
    """Types what docs/operations.md says, in a directory that looks like the repository."""

    def __init__(self, home: Path, redis_url: str, secrets: Path, data: Path) -> None:
        self.home = home
        (home / "deploy").symlink_to(ROOT / "deploy")
        programs = home / "programs"
        programs.mkdir()
        redis_cli = (
            f'#!/bin/sh\nexec {Path(find_redis_server()).with_name("redis-cli")} -p {_port(redis_url)} "$@"\n'
        )
        python = f'#!/bin/sh\nexec {sys.executable} "$@" {secrets}\n'
        docker = DOCKER.replace("PYTHON", sys.executable, 1)
        for name, text in {"docker": docker, "redis-cli": redis_cli, "python": python}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        played = {
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SECRETS": str(secrets),
            "DATA": str(data),
            "COMPOSE": str(ROOT / "docker-compose.yml"),
            "REDIS": f"127.0.0.1:{_port(redis_url)}",
            "PYTHONPATH": str(light_libraries(home / "libraries")),  # the tools' image has no torch, either
        }
        self._environment = {**os.environ, **played}

    def types(self, *texts: str) -> str:
        """Follow these procedures, one after the other; what they printed."""
        done = subprocess.run(
            ["bash", "-ec", "\n".join(texts)],
            cwd=self.home,
            env=self._environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "(error)" not in done.stdout, done.stdout
        assert "ERR" not in done.stdout, done.stdout
        return done.stdout


def _procedure(name: str) -> str:
    """The first block of commands under this bold heading."""
    text = (ROOT / "docs" / "operations.md").read_text()
    found = re.search(rf"\*\*{name}\*\*.*?\n```\n(.*?)```", text, re.DOTALL)
    assert found, f"the manual has no procedure called {name}"
    return found[1]


@pytest.fixture
def operator(tmp_path: Path, redis_url: str, secrets: Path, data: Path) -> Operator:
    return Operator(tmp_path, redis_url, secrets, data)


def test_the_administrator_reads_who_was_refused_what(operator: Operator, client: redis.Redis) -> None:
    with pytest.raises(NoPermissionError):
        client.flushall()

    assert "flushall" in operator.types(_procedure("The administrator")).lower()


def test_the_administrator_has_our_commands(operator: Operator) -> None:
    printed = operator.types(_procedure("Our commands as the administrator"))

    assert "no job was given up" in printed
    assert json.loads(printed.splitlines()[-1])["models"] == []


def test_a_backup_made_as_documented_holds_every_job(
    operator: Operator, client: redis.Redis, secrets: Path
) -> None:
    client.lpush(queue_of("interactive"), "kept")

    operator.types(_procedure("The administrator"), _procedure("Backup"))

    backup = operator.home / "redis-backup"
    port = free_port()
    conf = (
        (backup / "redis.conf").read_text().replace(f"dir {operator._environment['DATA']}", f"dir {backup}")
    )
    (backup / "redis.conf").write_text(conf)
    restored = subprocess.Popen(
        [find_redis_server(), str(backup / "redis.conf"), "--port", str(port)], stdout=subprocess.DEVNULL
    )
    try:
        wait_for_pong(port)
        password = (secrets / "rerankq_broker_url").read_text().split(":")[2].split("@")[0]
        with redis.Redis(port=port, username="worker", password=password) as copy:
            assert copy.lindex(queue_of("interactive"), 0) == b"kept"
    finally:
        restored.kill()
        restored.wait()


def test_passwords_are_changed_as_documented_while_old_clients_go_on(
    operator: Operator, redis_url: str, secrets: Path
) -> None:
    old_producer, old_key = (
        (secrets / f"rerankq_{name}").read_text() for name in ("producer_url", "http_key")
    )
    steps = _procedure("Changing the Redis passwords").splitlines()
    middle = next(number for number, step in enumerate(steps) if step.startswith("docker"))

    operator.types(_procedure("The administrator"), *steps[:middle])
    assert _enters(redis_url, old_producer)
    assert _enters(redis_url, (secrets / "rerankq_producer_url").read_text())
    new_key = (secrets / "rerankq_http_key").read_text()
    assert (secrets / "rerankq_http_keys").read_text().split() == [new_key, old_key]

    operator.types(_procedure("The administrator"), *steps[middle:])
    assert not _enters(redis_url, old_producer)
    assert _enters(redis_url, (secrets / "rerankq_producer_url").read_text())
    assert _enters(redis_url, (secrets / "rerankq_broker_url").read_text())
    assert (secrets / "rerankq_http_keys").read_text() == new_key


def _enters(redis_url: str, url: str) -> bool:
    """Whether the Redis of this test lets this URL of a secret in."""
    local = url.replace("@redis:6379", f"@127.0.0.1:{_port(redis_url)}")
    with redis.Redis.from_url(local, retry=Retry(NoBackoff(), 0)) as client:
        try:
            return bool(client.ping())
        except AuthenticationError:
            return False


@pytest.mark.parametrize("option", ["--rotate", "--forget-old"])
def test_users_of_another_kind_are_not_written_over(tmp_path: Path, option: str) -> None:
    (tmp_path / "redis_users").write_text("user rerankq on >x ~* +@all\n")

    done = subprocess.run(
        [sys.executable, str(MAKE_SECRETS), option, str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert "expected redis_users to name admin, producer and worker" in done.stderr
    assert (tmp_path / "redis_users").read_text() == "user rerankq on >x ~* +@all\n"
