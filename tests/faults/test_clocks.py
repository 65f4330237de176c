"""Machines disagree about the time; a deadline holds all the same, for it is Redis's."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rerankq import DeadlineExceeded
from tests.conftest import REPOSITORY
from tests.service import Service

OFF_SECONDS = 600.0

# Asks in each of the ways there are, and tells what came of it.
PRODUCER = """
import asyncio, json, sys, time
from rerankq import AsyncRerankClient, RerankClient, RerankError

def end_of(call):
    try:
        return type(call()).__name__
    except RerankError as error:
        return type(error).__name__

async def ask():
    async with AsyncRerankClient(sys.argv[1]) as client:
        return await client.rerank("asyncio", ["a"], timeout=20)

with RerankClient(sys.argv[1]) as client:
    job = client.submit("age", ["a"], deadline=time.time() + 20)
    pack = client.send_pack([client.request("pack", ["a"], deadline=time.time() + 20)])
    told = {
        "rerank": end_of(lambda: client.rerank("sync", ["a"], timeout=20)),
        "asyncio": end_of(lambda: asyncio.run(ask())),
        "submit": end_of(lambda: job.result(20)),
        "pack": end_of(lambda: pack.answers(20)[0]),
        "too late": end_of(lambda: client.submit("late", ["a"], deadline=time.time() - 1).result(20)),
        "age": time.time() - job.status().submitted_at,
    }
print(json.dumps(told))
"""


def shifted(environment: dict[str, str], seconds: float) -> dict[str, str]:
    """The same environment for a process whose wall clock is off."""
    here = str(Path(__file__).parent.parent / "shifted")
    path = os.pathsep.join([here, environment.get("PYTHONPATH", "")])
    return environment | {"PYTHONPATH": path, "SHIFTED_BY_SECONDS": str(seconds)}


class ShiftedService(Service):
    """A service whose workers' clock is off."""

    def __init__(self, seconds: float) -> None:
        super().__init__(engine="tests.witness:engine")
        self.seconds = seconds

    @property
    def environment(self) -> dict[str, str]:
        return shifted(super().environment, self.seconds)


@pytest.fixture(scope="module", params=[-OFF_SECONDS, OFF_SECONDS], ids=["workers-behind", "workers-ahead"])
def service(request: pytest.FixtureRequest) -> Iterator[ShiftedService]:
    with ShiftedService(request.param) as running:
        yield running


def test_a_job_in_time_is_answered_and_says_how_long_it_waited(service: ShiftedService) -> None:
    ranking = service.client.rerank("in time", ["a"], timeout=20)

    assert ranking.complete
    assert ranking.timings.queued_seconds < 20


def test_a_job_past_its_deadline_is_never_started(service: ShiftedService) -> None:
    late = service.client.submit("too late", ["a"], deadline=time.time() - 0.1, on_deadline="partial")

    with pytest.raises(DeadlineExceeded, match="was not started before its deadline"):
        late.result(20)
    assert late.status().state == "expired"
    assert service.testimony().rows_scored("too late") == 0


def test_a_producer_that_is_off_the_other_way_gets_its_answers(service: ShiftedService) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRODUCER, service.redis.url],
        env=shifted(service.environment, -service.seconds),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    told = json.loads(done.stdout)
    assert 0 <= told.pop("age") < 60
    assert told.pop("too late") == "DeadlineExceeded"
    assert set(told.values()) == {"Ranking"}


def test_a_wall_clock_that_is_set_while_a_client_lives_changes_nothing(
    service: ShiftedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.client.rerank("before the clock is set", ["a"], timeout=20)
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() - OFF_SECONDS)

    assert service.client.rerank("after it", ["a"], timeout=20).complete


def test_workers_tell_how_far_their_clock_is_off(service: ShiftedService) -> None:
    told = [worker.clock_ahead_seconds for worker in service.client.workers()]

    assert told == pytest.approx([service.seconds] * 2, abs=5)
