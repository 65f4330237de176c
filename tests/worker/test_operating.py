"""What an operator sees and does while a real worker is at work."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from rerankq import DeadlineExceeded, ResultTimeout
from rerankq.contract import keys, wire
from rerankq.contract.heartbeats import WorkerStatus
from rerankq.contract.messages import CONTRACT_VERSION
from rerankq.contract.release import VERSION
from tests.cli.conftest import CommandInHere
from tests.service import Service

LONG = [f"document {number}" for number in range(320)]  # ten batches on the double


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(
        engine="rerankq_worker.doubles:slow?batch_ms=300", app="tests.worker.quick_to_tell"
    ) as service:
        yield service


def test_a_worker_tells_its_release_its_host_and_the_job_it_runs(service: Service) -> None:
    job = service.client.submit("q", [f"document {n}" for n in range(1600)], lane="bulk")
    service.wait_until(lambda: any(worker.job == job.job_id for worker in service.client.workers()))

    told = {worker.job: worker for worker in service.client.workers()}
    at_it, idle = told[job.job_id], told[""]

    assert (at_it.version, at_it.contract) == (VERSION, CONTRACT_VERSION)
    assert at_it.host == idle.host == socket.gethostname()
    assert 0 <= (at_it.job_seconds or -1.0) < 20
    assert idle.job_seconds is None
    service.wait_until(lambda: any((worker.device_busy or 0) > 0.5 for worker in service.client.workers()))
    job.cancel()


def test_top_tells_what_a_lane_has_in_hand_who_is_at_it_and_how_long_jobs_took(service: Service) -> None:
    for _ in range(3):
        service.client.rerank("q", ["a"], timeout=20)
    job = service.client.submit("q", [f"long document {n}" for n in range(3200)], lane="bulk")
    waiting = service.client.submit("q", ["a"], lane="bulk")
    service.wait_until(lambda: any(worker.job == job.job_id for worker in service.client.workers()))

    told = json.loads(CommandInHere({**service.environment}).run("top", "--json").out)
    interactive, bulk = told["lanes"]

    assert (bulk["waiting"], bulk["in_hand"], bulk["workers"]) == (1, 1, 1)
    assert 0 < bulk["oldest_seconds"] < 30
    assert 0 < interactive["p50_seconds"] <= interactive["p95_seconds"] < 20
    assert job.job_id in [worker["job"] for worker in told["workers"]]
    assert told["redis"]["used_memory"] > 0
    assert told["not_read"] == {}
    job.cancel()
    assert waiting.result(20).complete


@pytest.fixture
def rerankq(service: Service) -> Iterator[CommandInHere]:
    """The command; whatever it ordered is taken back at the end."""
    yield CommandInHere({**service.environment, "NO_COLOR": "1"})
    with service.redis.client() as redis:
        redis.delete(keys.PAUSED, keys.DRAINING)
    service.wait_until(lambda: not any(worker.is_draining for worker in service.client.workers()))


def test_a_paused_lane_keeps_its_jobs_and_no_other_until_it_is_resumed(
    service: Service, rerankq: CommandInHere
) -> None:
    told = rerankq.run("pause", "bulk").out
    waiting = service.client.submit("q", ["a"], lane="bulk")

    assert told.startswith("the bulk lane is paused; `rerankq resume bulk` ends it")
    assert service.client.rerank("q", ["a"], timeout=20).complete
    with pytest.raises(
        ResultTimeout, match="the bulk lane is paused; it is answered after `rerankq resume bulk`"
    ):
        waiting.result(1)
    assert (
        "queued, 0/1 documents scored, bulk lane, which is paused"
        in rerankq.run("status", waiting.job_id).out
    )
    assert "paused: bulk since" in rerankq.run("workers").out

    assert rerankq.run("resume", "bulk").out == "the bulk lane goes on\n"
    assert waiting.result(20).complete


def test_what_a_worker_holds_goes_on_when_its_lane_is_paused(
    service: Service, rerankq: CommandInHere
) -> None:
    held = service.client.submit("q", LONG, lane="bulk")
    service.wait_until(lambda: held.status().state == "running")

    rerankq.run("pause", "bulk")

    assert held.result(30).complete


def test_a_pause_may_be_of_one_models_jobs_alone(service: Service, rerankq: CommandInHere) -> None:
    rerankq.run("pause", "bulk", "--model", "double")
    named, unnamed = (
        service.client.submit("q", ["a"], lane="bulk", model=model) for model in ("double", None)
    )

    assert unnamed.result(20).complete
    assert (named.status().state, named.status().paused_since is None) == ("queued", False)

    with pytest.raises(
        ResultTimeout,
        match="the bulk lane of double is paused; it is answered after `rerankq resume bulk --model double`",
    ):
        named.result(0.5)
    assert "(`rerankq resume bulk --model double`)" in rerankq.run("status", named.job_id).out
    rerankq.run("resume", "bulk", "--model", "double")
    assert named.result(20).complete


def test_who_pauses_a_model_that_nobody_knows_is_told_so(rerankq: CommandInHere) -> None:
    assert "no worker serves duoble, and no job has named it lately; known: double" in (
        rerankq.run("pause", "bulk", "--model", "duoble").err
    )
    assert (
        "--model: expected the name of a model"
        in rerankq.run("pause", "bulk", "--model", "", exit_code=2).err
    )


@pytest.mark.parametrize("model", [None, "double"], ids=["the lane", "one model of it"])
def test_bulk_work_says_what_of_its_lane_is_paused(
    rerankq: CommandInHere, tmp_path: Path, model: str | None
) -> None:
    of_model = [] if model is None else ["--model", model]
    rerankq.run("pause", "bulk", *of_model)
    files = [str(tmp_path / name) for name in ("in.jsonl", "out.jsonl")]
    Path(files[0]).write_text(json.dumps({"query": "q", "documents": ["a"]}) + "\n")
    with rerankq.start("bulk", *files, *of_model, "--progress", "json") as bulk:
        assert bulk.stderr is not None
        told = next(told for told in map(json.loads, bulk.stderr) if told["is_paused"])
        resumed = json.loads(rerankq.run("resume", "bulk", *of_model, "--json").out)
        bulk.communicate(timeout=60)  # whoever writes to a pipe that is closed has failed

    assert told["paused_models"] == of_model[1:]
    assert resumed == {"lanes": {"bulk": True}, "model": model, "workers": []}
    assert bulk.returncode == 0


@pytest.mark.parametrize(
    ("model", "paused"), [(None, "the interactive lane"), ("double", "the interactive lane of double")]
)
def test_who_waits_in_vain_on_a_paused_lane_is_told_so(
    service: Service, rerankq: CommandInHere, model: str | None, paused: str
) -> None:
    rerankq.run("pause", "interactive", *([] if model is None else ["--model", model]))

    with pytest.raises(DeadlineExceeded, match=f"{paused} is paused, and it was called off"):
        service.client.rerank("q", ["a"], timeout=1, model=model)


def test_a_worker_of_an_earlier_release_is_named_as_one_that_obeys_nobody(
    service: Service, rerankq: CommandInHere
) -> None:
    with service.redis.client() as redis:
        beat = {"seen": redis.time()[0] + 5, "state": "ready", "lanes": ["bulk"]}
        redis.hset(keys.WORKERS, "old@host", wire.encode(beat))

        paused = rerankq.run("pause", "bulk", "--json")
        drained = rerankq.run("drain", "old@host", exit_code=2)
        redis.hdel(keys.WORKERS, "old@host")

    assert json.loads(paused.out)["ignored_by"] == ["old@host"]
    assert "old@host is of an earlier release and takes jobs of it all the same" in paused.err
    assert "old@host is of an earlier release and cannot drain; stop it instead" in drained.err


def test_a_worker_that_drains_finishes_its_job_and_takes_no_more_until_it_is_resumed(
    service: Service, rerankq: CommandInHere
) -> None:
    worker = _worker(service, "bulk")
    held = service.client.submit("q", LONG, lane="bulk")
    service.wait_until(lambda: held.status().state == "running")

    said = rerankq.run("drain", worker.name.partition("~")[0])
    waiting = service.client.submit("q", ["a"], lane="bulk")

    assert held.result(1).complete
    assert said.out == f"{worker.name} is drained\n"
    assert _worker(service, "bulk").state == "drained"
    assert _worker(service, "interactive").state in ("ready", "busy")
    with pytest.raises(ResultTimeout):
        waiting.result(1)

    assert rerankq.run("resume", worker.name).out == f"{worker.name} takes jobs again\n"
    assert waiting.result(20).complete


def test_a_worker_that_is_killed_while_it_drains_goes_on_draining(
    service: Service, rerankq: CommandInHere
) -> None:
    rerankq.run("drain", "*-bulk@*")
    main = service.celery_worker("bulk")
    service.kill(main)
    waiting = service.client.submit("q", ["a"], lane="bulk")
    service.wait_until(lambda: service.celery_worker("bulk").pid != main.pid)
    service.wait_until(lambda: (_worker(service, "bulk").seen_seconds_ago or 9) < 1)

    with pytest.raises(ResultTimeout):
        waiting.result(1)
    rerankq.run("resume", "*-bulk@*")
    assert waiting.result(20).complete


def test_of_a_worker_that_goes_while_it_drains_nobody_says_that_it_finished(
    service: Service, rerankq: CommandInHere
) -> None:
    name = "lost@elsewhere"
    with service.redis.client() as redis:
        beat = {"seen": redis.time()[0] + 5, "state": "busy", "lanes": ["bulk"], "contract": 2, "job": "a"}
        redis.hset(keys.WORKERS, name, wire.encode(beat))

        def go() -> None:
            service.wait_until(lambda: redis.hexists(keys.DRAINING, name))
            redis.hdel(keys.WORKERS, name)

        going = Thread(target=go)
        going.start()
        said = rerankq.run("drain", name).out
        going.join()

    assert said.startswith(f"{name} is gone: it left, or has fallen silent")


def test_a_worker_that_nobody_knows_is_refused_with_those_of_like_names(
    service: Service, rerankq: CommandInHere
) -> None:
    name = _worker(service, "bulk").name

    refused = rerankq.run("drain", "cpu0-blk@x", exit_code=2).err
    assert f"no worker is called cpu0-blk@x; heard of lately: {name}" in refused
    told = rerankq.run("resume", "bulks", exit_code=2).err
    assert "neither a lane (interactive, bulk) nor a worker that drains is called bulks; none drains" in told


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("pause", "bulk", "--model", " "), "--model: expected the name of a model, got nothing"),
        (("resume", "bulk", "--model", ""), "--model: expected the name of a model, got nothing"),
        (
            ("resume", "bulk", "*", "--model", "double"),
            "--model is of a lane (interactive, bulk), and * is none",
        ),
    ],
    ids=["pause of no name", "resume of no name", "resume of a worker's model"],
)
def test_a_model_that_means_nothing_there_is_refused(
    rerankq: CommandInHere, typed: tuple[str, ...], told: str
) -> None:
    assert told in rerankq.run(*typed, exit_code=2).err


def test_where_all_workers_drain_nobody_is_asked_in_vain(service: Service, rerankq: CommandInHere) -> None:
    rerankq.run("drain", socket.gethostname())

    failure = rerankq.run("rerank", "q", "a", exit_code=3)

    assert "NoWorkers: all workers drain and take no more jobs" in failure.err
    assert len(rerankq.run("resume", socket.gethostname()).out.splitlines()) == 2


def _worker(service: Service, lane: str) -> WorkerStatus:
    return next(worker for worker in service.client.workers() if f"-{lane}@" in worker.name)
