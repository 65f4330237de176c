"""The log of a whole service: one object a line, one line a job at its end, nobody's text, and SIGUSR1."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from rerankq import DeadlineExceeded, InvalidRequest, JobFailed, RerankClient
from rerankq.contract import traces
from rerankq.contract.keys import queue_of
from tests.redis_server import RedisServer
from tests.service import Service

MARKER = "zanzibarium"
SLOW = [f"{MARKER} {number}" for number in range(1000)]  # five seconds on the double


class WithPassword(RedisServer):
    """Its user needs none, and may say any."""

    @property
    def url(self) -> str:
        return super().url.replace("//", "//default:s3cret@")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(
        engine="rerankq_worker.doubles:slow?pair_ms=5",
        redis=WithPassword(),
        log="json",
        log_level="DEBUG",
        max_attempts=2,
        bulk_hard_limit_seconds=3,
    ) as running:
        yield running


@pytest.fixture
def client(service: Service) -> RerankClient:
    return service.client


def told(service: Service) -> list[dict[str, Any]]:
    """The log; every line of it is an object."""
    whole = service.log().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def lines_of(service: Service, job_id: str, *outcomes: str) -> list[dict[str, Any]]:
    """The lines of a job, once its attempts have ended so."""

    def found() -> list[dict[str, Any]]:
        return [line for line in told(service) if line.get("job") == job_id]

    service.wait_until(lambda: len(found()) >= len(outcomes))
    assert [line["outcome"] for line in found()] == [*outcomes]
    return found()


def test_a_job_has_one_line_at_its_end(service: Service, client: RerankClient) -> None:
    job = client.submit(MARKER, [MARKER, "b"], lane="bulk")
    ranking = job.result(20)

    (line,) = lines_of(service, job.job_id, "done")
    assert line["message"] == "job done"
    assert line["process"] in ("worker cpu0-bulk", "worker cpu0-interactive")
    assert (line["lane"], line["worker"], line["attempt"]) == ("bulk", ranking.worker.name, 1)
    assert (line["docs"], line["tokens"]) == (2, ranking.usage.tokens)
    assert line["score_s"] == pytest.approx(ranking.timings.score_seconds, abs=1e-3)
    assert line["wait_s"] == pytest.approx(ranking.timings.queued_seconds, abs=1e-3)
    assert line["total_s"] >= line["wait_s"] + line["score_s"]


def test_the_trace_of_its_caller_is_in_a_jobs_line(service: Service, client: RerankClient) -> None:
    """By a worker that exports none, and takes the job as any."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    before = traces.handed.set(f"00-{trace}-b7ad6b7169203331-01")
    job = client.submit("q", ["a"])
    traces.handed.reset(before)
    job.result(20)

    (line,) = lines_of(service, job.job_id, "done")
    assert line["trace_id"] == trace


def test_a_pack_has_one_line(service: Service, client: RerankClient) -> None:
    requests = [client.request("a", ["b", "c"]), client.request(MARKER, [MARKER * 9000], truncation=False)]
    pack = client.send_pack(requests)
    pack.answers(20)

    (line,) = lines_of(service, pack.job_id, "done")
    assert (line["docs"], line["failed"]) == (3, 1)


Refuse = Callable[[RerankClient], Any]
ENDS: dict[str, tuple[str, Refuse]] = {
    "expired": ("expired", lambda client: client.submit(MARKER, SLOW, deadline=time.time() + 0.4)),
    "failed": ("failed", lambda client: client.submit(MARKER, [MARKER * 9000], truncation=False)),
}


@pytest.mark.parametrize("outcome", ENDS)
def test_a_job_that_fails_has_one_as_well(service: Service, client: RerankClient, outcome: str) -> None:
    expected, submit = ENDS[outcome]
    job = submit(client)
    with pytest.raises((DeadlineExceeded, InvalidRequest)):
        job.result(20)

    (line,) = lines_of(service, job.job_id, expected)
    assert line["error"] in ("DeadlineExceeded", "InvalidRequest")


def test_a_job_that_is_called_off_has_one(service: Service, client: RerankClient) -> None:
    job = client.submit(MARKER, SLOW)
    service.wait_until(lambda: job.status().state == "running")
    job.cancel()

    lines_of(service, job.job_id, "cancelled")


def test_a_job_that_is_killed_at_its_limit_is_named_without_a_traceback(
    service: Service, client: RerankClient
) -> None:
    seen = len(told(service))
    job = client.submit(MARKER, SLOW, lane="bulk")
    os.kill(running_child(service, job.job_id), signal.SIGSTOP)
    with pytest.raises(DeadlineExceeded):
        job.result(30)

    (line,) = lines_of(service, job.job_id, "expired")
    assert line["why"] == "killed after 3 s"
    assert not [line for line in told(service)[seen:] if "exc" in line]


def test_a_lost_child_names_its_job_and_no_traceback(service: Service, client: RerankClient) -> None:
    seen = len(told(service))
    job = client.submit(MARKER, SLOW)
    for times in (1, 2):
        os.kill(running_child(service, job.job_id, times), signal.SIGKILL)
        lines_of(service, job.job_id, *["lost"] * times)
    with pytest.raises(JobFailed):
        job.result(60)

    lost, again, dead = lines_of(service, job.job_id, "lost", "lost", "dead")
    assert (lost["attempt"], again["attempt"]) == (1, 2)
    assert lost["why"] == "signal 9 (SIGKILL)"
    assert (lost["docs"], lost["level"]) == (1000, "WARNING")
    assert dead["level"] == "ERROR"
    assert not [line for line in told(service)[seen:] if "exc" in line]


def running_child(service: Service, job_id: str, attempt: int = 1) -> int:
    """The Celery child that runs a job; waits for one."""
    job = service.client.job(job_id)
    service.wait_until(lambda: job.status().state == "running" and job.status().attempts == attempt)
    return service.celery_child(str(job.status().worker).partition("@")[0].removeprefix("cpu0-")).pid


def test_a_job_for_another_model_is_told_when_it_is_handed_on(service: Service, client: RerankClient) -> None:
    """As an older client sends it: on the common list."""
    from celery import Celery

    sender = Celery(broker=service.redis.url, set_as_current=False)
    sent = sender.send_task(
        "rerankq.rerank",
        kwargs={"query": MARKER, "documents": [MARKER], "model": "org/other"},
        queue=queue_of("interactive"),
        serializer="json",
        argsrepr="()",
        kwargsrepr=MARKER,
    )

    lines_of(service, sent.id, "handed_on")


def test_what_others_publish_and_attach_is_told_without_its_words(
    service: Service, client: RerankClient
) -> None:
    from celery import Celery

    redis_server = redis.Redis.from_url(service.redis.url)
    redis_server.publish("/0.celery.pidbox", MARKER)
    sender = Celery(broker=service.redis.url, set_as_current=False)
    sender.send_task(
        "rerankq.rerank",
        kwargs={"query": "q", "documents": ["a"]},
        queue=queue_of("interactive"),
        link=sender.signature("theirs", options={"serializer": MARKER}),
    )

    def said(words: str) -> list[dict[str, Any]]:
        return [line for line in told(service) if words in line["message"]]

    service.wait_until(lambda: said("on channel 'celery.pidbox': it is no message of Celery's"))
    service.wait_until(lambda: said(" was raised around a task\n  File"))


def test_sigusr1_tells_the_stacks_of_every_process_and_ends_none(
    service: Service, client: RerankClient
) -> None:
    processes = {service.launcher().pid, *(process.pid for process in service.processes())}
    seen = len(told(service))

    service.launcher().send_signal(signal.SIGUSR1)

    names = {"launcher", "engine cpu0", "worker cpu0-bulk", "worker cpu0-interactive"}

    def stacks() -> list[dict[str, Any]]:
        return [line for line in told(service)[seen:] if "File " in line.get("exc", "")]

    service.wait_until(lambda: {line["process"] for line in stacks()} >= names)
    service.wait_until(lambda: len({line["pid"] for line in stacks() if "pid" in line}) == 5)  # children, too
    assert {service.launcher().pid, *(process.pid for process in service.processes())} == processes
    assert client.rerank("after it", ["a"]).complete


def test_a_crash_is_a_record_of_the_process(service: Service, client: RerankClient) -> None:
    os.kill(service.engine().pid, signal.SIGSEGV)

    def crashes() -> list[dict[str, Any]]:
        return [line for line in told(service) if line["message"].startswith("Fatal Python error")]

    service.wait_until(crashes)
    assert (crashes()[0]["process"], crashes()[0]["level"]) == ("engine cpu0", "ERROR")
    assert client.rerank("after it", ["a"], timeout=30).complete


def test_no_text_and_no_password_is_in_any_line(service: Service) -> None:
    """Last: of all that was told, at the level that tells most."""
    log = service.log()

    assert MARKER not in log
    assert "zanzi" not in log
    assert "default:***@127.0.0.1" in log
    assert "s3cret" not in log


def test_nobody_is_stopped_by_a_log_that_nobody_reads() -> None:
    reader, writer = os.pipe()
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(
            Service(engine="rerankq_worker.doubles:noop", log_level="DEBUG", output=writer)
        )
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4095 + b"\n")
        os.set_blocking(writer, True)

        for number in range(50):
            assert service.client.rerank(f"query {number}", ["a"], timeout=30).complete
        service.launcher().send_signal(signal.SIGUSR1)
        service.kill(service.celery_child("interactive"))
        assert service.client.rerank("after it", ["a"], timeout=30).complete
        os.close(writer)
        os.close(reader)  # now it has gone
        assert service.client.rerank("after that", ["a"], timeout=30).complete
