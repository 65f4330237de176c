"""Flower against a real worker: it sees the work and never a word of it."""

import base64
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.redis_server import free_port
from tests.service import Service

MARKER = "zanzibarium"
LOGIN = "operator:kept-in-a-secret"


class Flower:
    """A Flower on loopback, behind basic auth."""

    def __init__(self, service: Service) -> None:
        self._address = f"http://127.0.0.1:{free_port()}"
        port = self._address.rsplit(":", 1)[1]
        self._log = service.log_file.with_name("flower.log").open("wb")
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", "rerankq_worker.app:app", "flower"),
                *("--address=127.0.0.1", f"--port={port}", f"--basic-auth={LOGIN}"),
            ],
            cwd=REPOSITORY,
            env=service.environment,
            stdout=self._log,
            stderr=self._log,
        )

    def get(self, path: str, login: str | None = LOGIN) -> str:
        request = urllib.request.Request(self._address + path)
        if login is not None:
            request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.read().decode()

    def api(self, path: str) -> dict[str, Any]:
        return json.loads(self.get(path))

    def answers(self) -> bool:
        try:
            return bool(self.get("/healthcheck"))
        except OSError:
            return False

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()


@pytest.fixture(scope="module")
def service(idle_service: Service) -> Service:
    return idle_service


@pytest.fixture(scope="module")
def flower(service: Service) -> Iterator[Flower]:
    shown = Flower(service)
    try:
        service.wait_until(shown.answers, 40)
        service.wait_until(lambda: len(shown.api("/api/workers?refresh=1")) == 2, 30)
        yield shown
    finally:
        shown.close()


def test_flower_shows_workers_and_counts_and_never_a_word(service: Service, flower: Flower) -> None:
    service.client.rerank(MARKER, [MARKER, {"text": MARKER, "id": "doc"}])
    service.client.submit(MARKER, [MARKER * 5], lane="bulk").result(20)
    service.wait_until(lambda: len(flower.api("/api/tasks")) >= 2)
    service.wait_until(lambda: {task["state"] for task in flower.api("/api/tasks").values()} == {"SUCCESS"})

    tasks = flower.api("/api/tasks")
    assert all(task["runtime"] > 0 for task in tasks.values())
    assert {task["kwargs"] for task in tasks.values()} == {
        "docs=2 chars=33 top_n=all",
        "docs=1 chars=66 top_n=all",
    }
    pages = [flower.get("/tasks"), flower.get("/api/tasks"), flower.get("/metrics"), service.log()]
    pages += [flower.get(f"/task/{task_id}") for task_id in tasks]
    assert not [page for page in pages if MARKER in page]


def test_a_strangers_documents_are_hidden_too(service: Service, flower: Flower) -> None:
    from celery import Celery

    with Celery("stranger", broker=service.redis.url, backend=service.redis.url) as plain:
        job = plain.send_task(
            "rerankq.rerank", kwargs={"query": MARKER, "documents": [MARKER]}, queue="rerankq.interactive"
        )
        assert job.get(timeout=20)["scored"] == 1
    service.wait_until(lambda: flower.api("/api/tasks").get(job.id, {}).get("state") == "SUCCESS")

    assert MARKER not in flower.get("/api/tasks") + flower.get(f"/task/{job.id}") + service.log()


def test_flower_asks_for_a_login(flower: Flower) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        flower.get("/api/tasks", login=None)
