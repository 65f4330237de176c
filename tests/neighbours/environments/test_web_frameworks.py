"""The examples of docs/web.md, word for word, under the servers that people run them with: load, outages, leavers."""

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rerankq.contract import keys
from tests.collector import Collector
from tests.neighbours.environments.web_site import (
    CALLERS,
    Site,
    awaited_channels,
    connections,
    served,
)
from tests.neighbours.side import side_environment
from tests.service import Service
from tests.web_examples import write_examples

REQUESTS = 2_000
REQUESTS_AROUND_A_RESTART = 600
THREADS = 16  # of each gthread worker
OWN_THREADS = 8  # a server's and a framework's own, in all of its processes together
LANE_IS_FULL_AT = CALLERS + 16
PACKAGES = [
    "django>=5.2",
    "fastapi>=0.115",
    "flask>=3",
    "gevent>=24",
    "gunicorn>=23",
    "httpx>=0.27",
    "opentelemetry-exporter-otlp-proto-http>=1.30",
    "opentelemetry-instrumentation-fastapi>=0.50b0",
    "packaging",  # gunicorn's gevent worker imports it without saying so
    "uvicorn>=0.30",
]

_GTHREAD = f"gunicorn -b 127.0.0.1:{{port}} -k gthread -w 2 --threads {THREADS}"
_UVICORN = "uvicorn --port {port} --workers 2 --log-level warning"
SERVERS = {
    "django under gunicorn": (f"{_GTHREAD} shop_site:wsgi", "/search"),
    "django's async views under gunicorn": (f"{_GTHREAD} shop_site:wsgi", "/search-async"),
    "django's async views under uvicorn": (f"{_UVICORN} shop_site:asgi", "/search-async"),
    "flask under gunicorn, preloaded": (f"{_GTHREAD} --preload app:app", "/search"),
    "flask under gevent": ("gunicorn -b 127.0.0.1:{port} -k gevent -w 2 app:app", "/search"),
    "fastapi under uvicorn": (f"{_UVICORN} main:app", "/search?query="),
}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(engine="rerankq_worker.doubles:noop", appendonly=True) as running:
        yield running


@pytest.fixture(scope="module", params=SERVERS.values(), ids=SERVERS)
def site(
    request: pytest.FixtureRequest, service: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    command, path = request.param
    directory = tmp_path_factory.mktemp("site")
    write_examples(directory)
    shutil.copy(Path(__file__).with_name("shop_site.py"), directory)
    full = {"RERANKQ_MAX_INTERACTIVE_JOBS": str(LANE_IS_FULL_AT)}
    with served(side_environment(*PACKAGES), command, path, directory, service.redis.url, **full) as site:
        yield site
    with service.redis.client() as redis:
        service.wait_until(lambda: not connections(redis))


def test_requests_of_64_callers_get_their_own_answers_and_leave_nothing(site: Site, service: Service) -> None:
    began_with = site.threads()

    load = site.load(REQUESTS)

    assert load.wrong == []
    assert load.statuses == {200: REQUESTS}, site.log.read_text()[-3000:]
    with service.redis.client() as redis:
        service.wait_until(lambda: not awaited_channels(redis))
        # those that their clients have closed, Redis lists until it has read that
        service.wait_until(lambda: len(connections(redis)) <= 2 * CALLERS)
        assert redis.llen(keys.queue_of("interactive")) == 0
    assert site.threads() <= began_with + 2 * THREADS + OWN_THREADS


def test_a_redis_that_restarts_under_load_costs_no_wrong_answer_and_no_hung_request(
    site: Site, service: Service
) -> None:
    def restart() -> None:
        time.sleep(1)  # into the load
        service.redis.kill()
        time.sleep(1)
        service.redis.start()

    restarting = threading.Thread(target=restart)
    restarting.start()
    load = site.load(REQUESTS_AROUND_A_RESTART)
    restarting.join()

    assert load.wrong == []
    assert load.statuses == {200: REQUESTS_AROUND_A_RESTART}, site.log.read_text()[-3000:]
    with service.redis.client() as redis:
        service.wait_until(lambda: not awaited_channels(redis))


def test_a_full_queue_is_told_with_a_time_to_come_back(site: Site, service: Service) -> None:
    engine = service.engine()
    engine.suspend()
    try:
        late = time.time() + 5
        for _ in range(LANE_IS_FULL_AT + 8):
            service.client.submit("q", ["a"], deadline=late)
        answered = site.ask("q", ["a", "b"])
    finally:
        engine.resume()

    assert answered.status == 429
    assert int(answered.headers["retry-after"]) >= 1
    with service.redis.client() as redis:
        service.wait_until(lambda: redis.llen(keys.queue_of("interactive")) == 0)


def test_a_request_that_is_wrong_is_told_which_field(site: Site) -> None:
    answered = site.ask("q", [])

    assert answered.status == 422
    assert "documents" in answered.body["error"]


@pytest.mark.parametrize(
    "site", [SERVERS["fastapi under uvicorn"], SERVERS["django's async views under uvicorn"]], indirect=True
)
def test_a_caller_that_leaves_calls_its_job_off(site: Site, service: Service) -> None:
    engine = service.engine()
    engine.suspend()
    try:
        with service.redis.client() as redis:
            known = set(redis.keys(keys.job("*")))
            with site.asked("left", ["a", "b"]):
                service.wait_until(lambda: set(redis.keys(keys.job("*"))) - known)
            (job,) = set(redis.keys(keys.job("*"))) - known
            job_id = job.decode().removeprefix(keys.job(""))
            service.wait_until(lambda: redis.exists(keys.cancel(job_id)))
    finally:
        engine.resume()


def test_fastapi_is_tested_with_a_fake_as_documented(tmp_path: Path) -> None:
    write_examples(tmp_path)
    code = """
import main
from fastapi.testclient import TestClient
from rerankq import QueueFull
from rerankq.testing import AsyncFakeRerankClient

main.app.state.reranker = AsyncFakeRerankClient()
main.app.state.reranker.fail_next(QueueFull("full", {"retry_after_seconds": 3}))
client = TestClient(main.app)
full = client.post("/search?query=panda", json=["a bear"])
found = client.post("/search?query=panda", json=["a bear", "a panda"])
assert (full.status_code, full.headers["Retry-After"]) == (429, "3"), full
assert found.json()[0]["text"] == "a panda", found
"""
    python = side_environment(*PACKAGES)

    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr


def test_a_request_to_an_instrumented_fastapi_is_one_trace_with_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_examples(tmp_path)
    shutil.copy(Path(__file__).with_name("traced_site.py"), tmp_path)
    collector = Collector()
    exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    for name, value in exporting.items():
        monkeypatch.setenv(name, value)
    command, python = "uvicorn --port {port} traced_site:app", side_environment(*PACKAGES)
    with (
        Service(engine="rerankq_worker.doubles:noop") as service,
        served(python, command, "/search?query=", tmp_path, service.redis.url, **exporting) as site,
    ):
        assert site.ask("q", ["a", "b"]).status == 200
        service.wait_until(lambda: _whole_traces(collector))
    collector.close()

    for trace in _whole_traces(collector):  # that the site is there was asked in the same way
        spans = {span.span_id: span for span in collector.spans if span.trace_id == trace}
        (attempt,) = [span for span in spans.values() if span.name == "rerankq.attempt"]
        submit = spans[attempt.parent_span_id]
        request = spans[submit.parent_span_id]
        assert (submit.name, request.name, request.parent_span_id) == ("rerankq.submit", "POST /search", b"")


def _whole_traces(collector: Collector) -> set[bytes]:
    """The traces in which both the application's request and the worker's attempt have ended."""
    ended = [
        {span.trace_id for span in collector.spans if span.name == name}
        for name in ("POST /search", "rerankq.submit", "rerankq.attempt")
    ]
    return set.intersection(*ended)
