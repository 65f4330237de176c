"""A job in its caller's trace, as a collector sees it: submit, wait, attempt, and of that tokenize, score, answer."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
from celery import Celery
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

import rerankq.celery
from rerankq import AsyncRerankClient, InvalidRequest
from rerankq.contract import traces
from tests.cli.test_local_parts import is_gone, wait_until
from tests.collector import Collector
from tests.service import Service, lines_of

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra otel")
trace = pytest.importorskip("opentelemetry.trace", reason="the same")
in_memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
export = pytest.importorskip("opentelemetry.sdk.trace.export")

MARKER = "zanzibarium"
PARTS = {"rerankq.wait", "rerankq.attempt", "rerankq.tokenize", "rerankq.score", "rerankq.answer"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    running = Collector()
    yield running
    running.close()


@pytest.fixture(scope="module")
def service(collector: Collector) -> Iterator[Service]:
    told = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_SERVICE_NAME": "reranking",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        with Service(engine="rerankq_worker.doubles:slow?pair_ms=5") as running:
            yield running


@pytest.fixture(scope="module")
def client_side() -> Any:
    """What a caller's own process has set up, as its documentation says."""
    exporter = in_memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@contextmanager
def their_span(name: str) -> Iterator[Any]:
    with trace.get_tracer("theirs").start_as_current_span(name) as span:
        yield span.get_span_context()


def submitted(client_side: Any, trace_id: int) -> Any:
    """The span of the submission."""
    (span,) = [
        span
        for span in client_side.get_finished_spans()
        if span.name == "rerankq.submit" and span.context.trace_id == trace_id
    ]
    return span


def see_whole(service: Service, collector: Collector, client_side: Any, theirs: Any) -> dict[str, Any]:
    """The worker's spans of a trace that begins with theirs, each under the one before it."""
    service.wait_until(lambda: collector.of(theirs.trace_id).keys() >= PARTS)
    seen, sent = collector.of(theirs.trace_id), submitted(client_side, theirs.trace_id)
    assert sent.parent.span_id == theirs.span_id
    for name in ("wait", "attempt"):
        assert int.from_bytes(seen[f"rerankq.{name}"].parent_span_id) == sent.context.span_id
    for name in ("tokenize", "score", "answer"):
        assert seen[f"rerankq.{name}"].parent_span_id == seen["rerankq.attempt"].span_id
    return seen


def attributes_of(span: Any) -> dict[str, Any]:
    return {
        told.key.removeprefix("rerankq."): getattr(told.value, told.value.WhichOneof("value"))
        for told in span.attributes
    }


def test_a_job_is_a_part_of_its_callers_trace(
    service: Service, collector: Collector, client_side: Any
) -> None:
    with their_span("nightly") as theirs:
        job = service.client.submit(MARKER, [MARKER, "b"], lane="bulk")
    ranking = job.result(20)

    seen = see_whole(service, collector, client_side, theirs)
    told = attributes_of(seen["rerankq.attempt"])
    assert told == {
        "job": job.job_id,
        "lane": "bulk",
        "worker": ranking.worker.name,
        "attempt": 1,
        "outcome": "done",
        "documents": 2,
        "tokens": ranking.usage.tokens,
    }
    assert seen["rerankq.wait"].end_time_unix_nano == seen["rerankq.attempt"].start_time_unix_nano
    assert seen["rerankq.answer"].end_time_unix_nano <= seen["rerankq.attempt"].end_time_unix_nano
    service.wait_until(lambda: f"trace_id={theirs.trace_id:032x}" in lines_of(service, job.job_id))


@pytest.mark.parametrize("characters", [10, 300_000], ids=["small", "packed in a thread"])
def test_a_request_to_a_web_application_is_one_trace_with_its_job(
    service: Service, collector: Collector, client_side: Any, characters: int
) -> None:
    """As an instrumented FastAPI has it, which is Starlette: a span that is current while a handler runs."""

    async def search(_: Any) -> JSONResponse:
        with their_span("GET /search") as theirs:
            async with AsyncRerankClient(service.redis.url) as client:
                await client.rerank("q", ["d" * characters], timeout=30)
        return JSONResponse({"trace": str(theirs.trace_id), "span": str(theirs.span_id)})

    found = TestClient(Starlette(routes=[Route("/search", search)])).get("/search").json()

    service.wait_until(lambda: collector.of(int(found["trace"])).keys() >= PARTS)
    assert submitted(client_side, int(found["trace"])).parent.span_id == int(found["span"])


def test_a_task_of_the_callers_own_celery_is_one_trace_with_the_job_it_sends(
    service: Service, collector: Collector, client_side: Any
) -> None:
    shop = Celery("shop", broker=service.redis.url, backend=service.redis.url, set_as_current=False)
    shop.conf.task_always_eager = False
    rerankq.celery.route(shop)

    @shop.task(shared=False)
    def night_shift() -> Any:
        with their_span("night shift") as theirs:
            rerankq.celery.signature(MARKER, [MARKER], app=shop).apply_async()
        return theirs

    theirs = night_shift.apply().get()

    service.wait_until(lambda: "rerankq.attempt" in collector.of(theirs.trace_id))
    attempt = collector.of(theirs.trace_id)["rerankq.attempt"]
    assert int.from_bytes(attempt.parent_span_id) == theirs.span_id


def test_each_delivery_of_a_job_is_an_attempt_in_its_trace(
    service: Service, collector: Collector, client_side: Any
) -> None:
    children = {lane: service.celery_child(lane).pid for lane in ("interactive", "bulk")}
    with their_span("nightly") as theirs:
        job = service.client.submit("q", [f"d {number}" for number in range(600)])
    service.wait_until(lambda: job.status().state == "running")
    worker = str(job.status().worker).partition("@")[0].removeprefix("cpu0-")
    os.kill(children[worker], signal.SIGKILL)
    assert job.result(60).complete

    def attempts() -> list[tuple[Any, Any]]:
        found = [
            attributes_of(span)
            for span in collector.all_of(theirs.trace_id)
            if span.name == "rerankq.attempt"
        ]
        return sorted((told["attempt"], told["outcome"]) for told in found)

    service.wait_until(lambda: len(attempts()) == 2)
    assert attempts() == [(1, "lost"), (2, "done")]


def test_a_failure_is_a_failure_in_its_trace_and_says_no_text(
    service: Service, collector: Collector, client_side: Any
) -> None:
    with their_span("nightly") as theirs:
        job = service.client.submit(MARKER, [MARKER * 9000], truncation=False)
    with pytest.raises(InvalidRequest):
        job.result(20)

    service.wait_until(lambda: "rerankq.attempt" in collector.of(theirs.trace_id))
    attempt = collector.of(theirs.trace_id)["rerankq.attempt"]
    assert (attempt.status.code, attempt.status.message) == (2, "InvalidRequest")
    assert attributes_of(attempt)["outcome"] == "failed"


PARENT = """
import sys, threading
from rerankq.contract.traces import Origin
from rerankq_worker.queue import job_spans

def tell(number):
    origin = Origin(f"{number:032x}", f"{1:016x}", True)
    job_spans.write(origin, {"job": "j", "outcome": "lost"}, ran_s=0.1, wait_s=None, parts={})

tell(0xA)
tell(0xB)
beside = job_spans._beside._process
print(threading.active_count(), "opentelemetry" in sys.modules, beside and beside.pid, flush=True)
sys.stdin.read()
"""


def parent_that_tells(url: str, **more: str) -> "subprocess.Popen[str]":
    """A process that stands for a Celery parent, and says how it is, until its stdin is closed."""
    return subprocess.Popen(
        [sys.executable, "-c", PARENT],
        env=os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": url, **more},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_process_that_forks_exports_nothing_itself(service: Service, collector: Collector) -> None:
    """A thread that exports, and a module that it imports, would be locked for ever in a child forked meanwhile."""
    with parent_that_tells(collector.url) as parent:
        service.wait_until(lambda: collector.of(0xA) and collector.of(0xB))
        told, _ = parent.communicate()

    assert told.split()[:2] == ["1", "False"]
    assert [attributes_of(collector.of(number)["rerankq.attempt"])["outcome"] for number in (0xA, 0xB)] == [
        "lost",
        "lost",
    ]


@pytest.mark.parametrize("is_killed", [False, True], ids=["which finds it frozen", "which is killed"])
def test_what_exports_beside_a_parent_ends_with_it(is_killed: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as never_answers:
        url = f"http://127.0.0.1:{never_answers.getsockname()[1]}"
        parent = parent_that_tells(url)
        told = parent.stdout.readline()
        beside = psutil.Process(int(told.split()[2]))
        if is_killed:
            never_answers.accept()[0].close()  # it exports, and tries again
            beside.terminate()  # as a signal to the whole group does
            parent.kill()
        else:
            beside.suspend()
        parent.communicate(timeout=30)

        wait_until(lambda: is_gone(beside.pid))


def test_what_exports_beside_a_parent_speaks_in_lines_of_the_log() -> None:
    with parent_that_tells("", OTEL_TRACES_EXPORTER="of_nobody", RERANKQ_LOG="json") as parent:
        line = parent.stderr.readline()
        parent.communicate()

    assert json.loads(line)["process"] == "spans"


def test_wrong_variables_are_told_once_and_cost_spans_only() -> None:
    child = f"from rerankq_worker.queue import job_spans\njob_spans.prepare()\n{PARENT}"
    wrong = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"}
    told = subprocess.run(
        [sys.executable, "-c", child],
        input="",
        env=os.environ | wrong,
        check=True,
        capture_output=True,
        text=True,
    )

    assert told.stderr.count("no span is exported: ValueError") == 1


def test_a_trace_that_is_not_sampled_costs_no_span(service: Service, collector: Collector) -> None:
    number = 0xABC
    told = traces.handed.set(f"00-{number:032x}-{1:016x}-00")
    try:
        job = service.client.submit("q", ["a"])
    finally:
        traces.handed.reset(told)
    job.result(20)
    with their_span("a later one") as later:
        service.client.rerank("q", ["a"])

    service.wait_until(lambda: collector.of(later.trace_id).keys() >= PARTS)
    assert collector.all_of(number) == []
    service.wait_until(lambda: f"trace_id={number:032x}" in lines_of(service, job.job_id))


def test_no_text_is_in_a_span(collector: Collector, client_side: Any) -> None:
    """Last but one: of all that was told."""
    assert collector.spans
    assert MARKER.encode() not in collector.bodies
    assert MARKER not in repr([span.to_json() for span in client_side.get_finished_spans()])


def test_a_collector_that_is_away_stops_nobody(service: Service, collector: Collector) -> None:
    collector.close()
    with their_span("nightly"):
        assert service.client.rerank("q", ["a"], timeout=30).complete

    began = time.monotonic()
    service.stop_launcher()
    assert time.monotonic() - began < 20
