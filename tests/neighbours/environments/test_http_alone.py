"""The HTTP face where nothing but its extra is installed, oldest and newest."""

import json
import subprocess
import urllib.request

import pytest

from tests.neighbours.environments.test_reranking_clients import EXTRAS
from tests.neighbours.side import side_environment
from tests.service import Service

OLDEST = [requirement.replace(">=", "==") + ".*" for requirement in EXTRAS["http"]]


@pytest.mark.parametrize("requirements", [OLDEST, EXTRAS["http"]], ids=["oldest", "newest"])
def test_it_answers_without_celery(requirements: list[str], service: Service) -> None:
    python = side_environment(*requirements)
    assert not list(python.parents[1].glob("lib/*/site-packages/celery"))
    serve = [python, "-u", "-m", "rerankq.cli", "serve", "--port", "0"]
    told = {"RERANKQ_BROKER_URL": service.redis.url, "PATH": "/usr/bin:/bin"}

    with subprocess.Popen(serve, env=told, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split(" at ")[1].split()[0]
            body = json.dumps({"query": "panda", "documents": ["a car", "a panda"], "top_n": 1}).encode()
            with urllib.request.urlopen(f"{url}/v1/rerank", body, timeout=60) as reply:
                ranking = json.load(reply)
            with urllib.request.urlopen(url, timeout=60) as reply:
                page = reply.read()
        finally:
            process.terminate()

    assert len(ranking["results"]) == 1
    assert page.startswith(b"<!doctype html>")
