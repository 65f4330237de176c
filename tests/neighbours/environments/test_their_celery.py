"""Other people's Celery, of other versions and with other serializers than ours, on the database of our service."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.neighbours.side import side_environment
from tests.service import Service

HERE = Path(__file__).parent
THEIRS = [
    pytest.param(["celery[redis]==5.5.*"], "json", id="celery 5.5, redis 5.2, json"),
    pytest.param(["celery[redis]==5.6.*", "redis==6.4.*"], "pickle", id="celery 5.6, redis 6.4, pickle"),
    pytest.param(
        ["celery[redis,msgpack]==5.7.*", "redis==7.*"], "msgpack", id="celery 5.7, redis 7, msgpack"
    ),
]


def environment(service: Service, serializer: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    mine = {"RERANKQ_BROKER_URL": service.redis.url, "SHOP_SERIALIZER": serializer, "C_FORCE_ROOT": "1"}
    return {**kept, **mine}


@pytest.mark.parametrize(("requirements", "serializer"), THEIRS)
@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_their_workers_and_ours_work_together(
    requirements: list[str], serializer: str, pool: str, service: Service, tmp_path: Path
) -> None:
    python, log, variables = (
        side_environment(*requirements),
        tmp_path / "log",
        environment(service, serializer),
    )
    worker = [python, "-m", "celery", "-A", "shop", "worker", "-n", "shop@%h", "-l", "INFO", "-c", "1"]
    with log.open("wb") as file:
        their_worker = subprocess.Popen(
            [*worker, "-P", pool, "-Q", "shop,shop.pages"], cwd=HERE, env=variables, stdout=file, stderr=file
        )
    try:
        service.wait_until(lambda: "ready." in log.read_text() or their_worker.poll() is not None, 60)
        asked = subprocess.run(
            [python, "shop.py"], cwd=HERE, env=variables, capture_output=True, text=True, timeout=120
        )
    finally:
        their_worker.terminate()
        their_worker.wait(30)

    assert asked.returncode == 0, f"{asked.stderr}\n{log.read_text()}\n{service.log()}"
    assert "ContentDisallowed" not in log.read_text()
    assert "unregistered" not in log.read_text()
    assert service.log().count("Connected to") == 2, "one of ours has connected again"
    assert "Control command error" not in service.log()
