"""Each image of deploy/Dockerfile, built step by step and at work, with a root that cannot be written."""

import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from rerankq import RerankClient
from tests.conftest import REPOSITORY
from tests.neighbours.environments.images import Image, Images
from tests.redis_server import RedisServer, free_port

COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
_DEFAULT = re.compile(r"\$\{\w+:-(.*?)\}")
MODEL = {"RERANKQ_MODEL": "small"}
READY_WITHIN_SECONDS = 120.0
ENDS_WITHIN_SECONDS = 60.0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    arguments = {"PIP_INDEX_URL": os.environ["PIP_INDEX_URL"]} if "PIP_INDEX_URL" in os.environ else {}
    return Images(tmp_path_factory.mktemp("images") / "built", arguments)


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer(appendonly=True) as server:
        yield server


def as_in_compose(service: str, image: Image, **changes: str) -> dict[str, str]:
    """What Compose tells a service that has nothing set beside it, but that nothing listens beyond this machine."""
    told = {name: value for name, value in (COMPOSE[service].get("environment") or {}).items() if value}
    told = {name: image.mapped(_DEFAULT.sub(r"\1", value)) for name, value in told.items()}
    secrets = image.path("/run/secrets")
    return {**told, **({"RERANKQ_SECRETS_DIR": str(secrets)} if secrets.exists() else {}), **changes}


def give_secrets(image: Image, **secrets: str) -> None:
    """Files under /run/secrets."""
    image.path("/run/secrets").mkdir(parents=True)
    for name, text in secrets.items():
        (image.path("/run/secrets") / name).write_text(text)


@contextmanager
def running(image: Image, log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Its CMD; told to end it ends in good order, at once enough."""
    process = image.start(log, **environment)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(ENDS_WITHIN_SECONDS) in (0, -signal.SIGTERM), log.read_text()[-2000:]
    finally:
        process.kill()
        process.wait()


def asked_until_well(url: str, log: Path) -> bytes:
    give_up_at = time.monotonic() + READY_WITHIN_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return reply.read()
        except OSError:
            if time.monotonic() > give_up_at:
                pytest.fail(f"nobody answers at {url}:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)


@pytest.fixture(scope="module")
def models(images: Images) -> Path:
    """The volume, with what `model-init` put there."""
    tools = images.image("tools").made_read_only()
    pulled = tools.run(*COMPOSE["model-init"]["command"], **as_in_compose("model-init", tools, **MODEL))
    assert pulled.returncode == 0, pulled.stderr
    return tools.directory / "models"


def test_the_tools_fetch_a_model_and_can_write_nowhere_else(models: Path, images: Images) -> None:
    tools = images.image("tools")

    done = tools.run("sh", "-c", tools.mapped("touch /opt/rerankq/mine"))

    assert list(models.rglob("model.safetensors"))
    assert "rerank" in tools.run(*tools.command).stdout
    assert "Permission denied" in done.stderr
    missed = re.search(r"^(warn|broken) +libraries.*", tools.run("rerankq", "doctor").stdout, re.M)
    assert missed is None, "it misses what it is not for"


def test_the_worker_serves_what_the_tools_have_fetched(
    models: Path, images: Images, redis: RedisServer, tmp_path: Path
) -> None:
    worker, log = images.image("worker"), tmp_path / "log"
    give_secrets(worker, rerankq_broker_url=redis.url)
    worker.made_read_only().mount("/models", models)
    told = as_in_compose(
        *("worker-cpu", worker),
        RERANKQ_METRICS_HOST="127.0.0.1",
        RERANKQ_METRICS_PORT=str(free_port()),
        RERANKQ_THREADS="1",
        **MODEL,
    )
    with running(worker, log, told), RerankClient(redis.url) as client:
        give_up_at = time.monotonic() + READY_WITHIN_SECONDS
        while worker.run(*COMPOSE["worker-cpu"]["healthcheck"]["test"][1:], **told).returncode:
            assert time.monotonic() < give_up_at, log.read_text()[-3000:]
        best = client.rerank("giant panda", ["a red car", "the giant panda is a bear"], timeout=60).results[0]
        asked_until_well(f"http://127.0.0.1:{told['RERANKQ_METRICS_PORT']}/metrics", log)

    assert best.index == 1
    assert "Read-only file system" not in log.read_text()


def test_the_face_serves_and_asks_for_its_key(images: Images, redis: RedisServer, tmp_path: Path) -> None:
    face, port = images.image("http"), free_port()
    give_secrets(face, rerankq_broker_url=redis.url, rerankq_http_keys="open sesame")
    face.made_read_only()
    told = as_in_compose("http", face, RERANKQ_HTTP_HOST="127.0.0.1", RERANKQ_HTTP_PORT=str(port))

    with running(face, tmp_path / "log", told):
        assert asked_until_well(f"http://127.0.0.1:{port}/health/ready", tmp_path / "log")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/jobs/x", timeout=5)

    assert face.port == 8787


def test_flower_starts_behind_its_password(images: Images, redis: RedisServer, tmp_path: Path) -> None:
    flower, port = images.image("flower"), free_port()
    give_secrets(flower, rerankq_broker_url=redis.url, flower_basic_auth="admin:secret")
    conf = flower.path("/app/flowerconfig.py")
    text = conf.read_text()
    conf.unlink()
    conf.write_text(
        re.sub("0.0.0.0", "127.0.0.1", flower.mapped(text)).replace("port = 5555", f"port = {port}")
    )
    flower.made_read_only()

    with running(flower, tmp_path / "log", as_in_compose("flower", flower)):
        assert asked_until_well(f"http://127.0.0.1:{port}/healthcheck", tmp_path / "log") == b"OK"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/workers", timeout=5)
