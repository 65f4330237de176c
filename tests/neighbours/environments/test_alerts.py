"""Every alert fires when the real thing breaks, and not before; panels show what was done; the pages' commands run."""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rerankq.contract.errors import RerankError
from rerankq.contract.keys import queue_of
from rerankq.contract.transport.dead_letters import DeadLetters
from tests.deploy.test_monitoring import RUNBOOKS, alerts, panels
from tests.neighbours.environments import test_redis_disk
from tests.neighbours.environments.breaking import (
    BALLAST_BYTES,
    BATCH_SECONDS,
    DEADLY,
    MOST_WAITING,
    TOO_LARGE,
    Watched,
)
from tests.neighbours.environments.prometheus import DEPLOYED, program

pytestmark = pytest.mark.timeout(1800)  # the first test waits for all that is seen

HOUR_SECONDS = 120  # of the alerts
INTERACTIVE_DOCUMENTS, BULK_DOCUMENTS = 5, 10
INTERACTIVE_PAUSE, BULK_PAUSE, HTTP_PAUSE = 0.3, 0.8, 0.5  # seconds between two jobs of a kind
PAUSED_JOBS, DEADLY_JOBS, TOO_LARGE_JOBS, ENGINE_KILLS, REFUSALS = 7, 2, 240, 5, 10
Series = list[tuple[dict[str, str], float]]


def test_each_alert_fires_when_its_numbers_say_so_and_not_a_moment_before() -> None:
    command = [program("promtool"), "test", "rules", DEPLOYED / "alerts_test.yml"]
    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(slots=True)
class Seen:
    """What came of it all."""

    cried: Series = field(default_factory=Series)
    """Alerts that fired though all was well."""
    shown: dict[str, dict[tuple[int, str], Series]] = field(default_factory=dict)
    """By what was broken, or `well`, and by a panel's id and its query's, what it gave then."""
    done: dict[str, float] = field(default_factory=dict)
    """What was done each second, in the last minute in which all was well."""
    commands: dict[str, str] = field(default_factory=dict)
    """Those of the pages that went wrong, with what they said."""
    fired: dict[str, set[str]] = field(default_factory=dict)
    """By what was broken, the alerts that fired."""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    seen = Seen()
    with Watched(tmp_path_factory.mktemp("prometheus")) as watched:
        _be_well(watched, seen)
        for name, (break_it, expected, within) in BREAKS.items():
            watched.wait(lambda wanted=expected: not wanted & watched.prometheus.alerts())
            with break_it(watched):
                seen.fired[name] = _fired(watched, expected, within)
                seen.shown[name] = _shown(watched)
        yield seen


def _be_well(watched: Watched, seen: Seen) -> None:
    """An hour and a half at work, in which workers are replaced and then scaled down, and a lane is paused."""
    acts = (
        (INTERACTIVE_PAUSE, lambda: watched.rank("interactive", INTERACTIVE_DOCUMENTS)),
        (BULK_PAUSE, lambda: watched.rank("bulk", BULK_DOCUMENTS)),
        (HTTP_PAUSE, lambda: watched.by_http(INTERACTIVE_DOCUMENTS)),
    )
    began = time.monotonic()
    with watched.busy(*acts):
        time.sleep(20)
        _rerankq(watched, "pause", "bulk")
        watched.scale_down()
        watched.scale_up()
        time.sleep(10)
        _rerankq(watched, "resume", "bulk")
        time.sleep(HOUR_SECONDS - 20)
        watched.scale_down()
        time.sleep(HOUR_SECONDS / 2 + 10)
        seen.done = watched.done_per_second(60)
        seen.shown["well"] = _shown(watched)
        firing = f'ALERTS{{alertstate="firing"}}[{time.monotonic() - began:.0f}s]'
        seen.cried = watched.prometheus.query(f"max_over_time({firing})")
        for command in {line for page in RUNBOOKS.glob("*.md") for line in _commands(page)}:
            if trouble := _trouble(watched, command):
                seen.commands[command] = trouble
    watched.scale_up()
    watched.wait(lambda: watched.ready() == 4)


def _shown(watched: Watched) -> dict[tuple[int, str], Series]:
    return {
        (panel["id"], target["refId"]): watched.prometheus.query(target["expr"])
        for panel in panels()
        for target in panel["targets"]
    }


def _commands(page: Path) -> list[str]:
    return page.read_text().split("```")[1].strip().splitlines()


def _trouble(watched: Watched, command: str) -> str | None:
    """What one of ours, or one that Redis is asked, says when it goes wrong; others are not asked."""
    match shlex.split(command):
        case ["rerankq", *words]:
            return _rerankq(watched, *words)
        case ["docker", "compose", "exec", _, "rerankq-worker", *words]:
            return _run(watched, "rerankq_worker", *words)
        case ["admin", *words]:
            with watched.service.redis.client() as redis:
                redis.execute_command(*words)
        case _:
            pass
    return None


def _rerankq(watched: Watched, *words: str) -> str | None:
    return _run(watched, "rerankq.cli", *words)


def _run(watched: Watched, module: str, *words: str) -> str | None:
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        env=watched.service.environment,
        capture_output=True,
        text=True,
    )
    may_warn = words == ("doctor",)  # a host of tests is not one to run a service on
    return done.stdout + done.stderr if done.returncode > may_warn else None


def _fired(watched: Watched, expected: set[str], within: float) -> set[str]:
    """The alerts that fire by then; no longer looked for once all that are expected have."""
    fired: set[str] = set()
    give_up_at = time.monotonic() + within
    while not expected <= fired and time.monotonic() < give_up_at:
        fired |= watched.prometheus.alerts("firing")
        time.sleep(0.5)
    return fired


@contextmanager
def _jobs_that_break_things(watched: Watched) -> Generator[None]:
    watched.ask(DEADLY, lane="bulk", count=DEADLY_JOBS)
    with watched.service.redis.client() as redis:
        watched.wait(lambda: DeadLetters(redis).count() == DEADLY_JOBS, 180)
    # A seventh of all that an hour of the alerts may have seen done, and more: how much that is depends on the machine.
    for count in [TOO_LARGE_JOBS // 4] * 4:
        for job in watched.ask(TOO_LARGE, count=count):
            with suppress(RerankError):
                job.result(60)
    yield


@contextmanager
def _engine_over_and_over(watched: Watched) -> Generator[None]:
    def starts() -> float:
        return _sum(watched.prometheus.query("sum(rerankq_engine_starts_total)"))

    before = starts()
    for _ in range(ENGINE_KILLS):
        watched.wait(lambda: watched.service.engine_state() in ("ready", "busy"))
        watched.service.kill(watched.service.engine())
    watched.wait(lambda: starts() >= before + ENGINE_KILLS)  # the alert fires before the last is told
    yield


@contextmanager
def _forgotten(watched: Watched) -> Generator[None]:
    """A pause, jobs for a model of nobody's, and settings of Redis."""
    _rerankq(watched, "pause", "bulk")
    watched.ask("a", lane="bulk", count=PAUSED_JOBS)
    job = watched.service.client.submit("q", ["a"], model="nobody/has-it")
    watched.be_refused(REFUSALS)
    with watched.configured(appendfsync="everysec", maxmemory=0):
        yield
    job.cancel()
    _rerankq(watched, "resume", "bulk")


@contextmanager
def _starving(watched: Watched) -> Generator[None]:
    watched.ask("a", lane="bulk", count=8)

    def crowd() -> None:
        if watched.service.client.lanes()["interactive"] < 40:
            watched.ask("a", "b", count=20)

    with watched.busy((0.02, crowd), (0.02, crowd)):
        yield


@contextmanager
def _hours_of_bulk(watched: Watched) -> Generator[None]:
    with watched.frozen_engine():
        watched.ask("a", lane="bulk", count=8)
        watched.age_bulk_jobs(7 * 3600)
        yield


@contextmanager
def _killed(watched: Watched) -> Generator[None]:
    """With jobs in its hands, which it does not let go of before."""
    watched.second.freeze_engine()
    watched.ask("a", count=30)
    with watched.service.redis.client() as redis:
        watched.wait(lambda: not redis.llen(queue_of("interactive")))
    watched.second.kill()
    watched.wait(lambda: not _up(watched, watched.second_port))
    yield


@contextmanager
def _over_and_over(watched: Watched) -> Generator[None]:
    for _ in range(5):
        watched.second.start()
        watched.wait(lambda: _up(watched, watched.second_port))
        watched.second.kill()
        watched.wait(lambda: not _up(watched, watched.second_port))
    yield


def _up(watched: Watched, port: int) -> bool:
    return any(value for _, value in watched.prometheus.query(f'up{{instance="127.0.0.1:{port}"}}'))


@contextmanager
def _hung(watched: Watched) -> Generator[None]:
    watched.prometheus.scrape(rerankq_worker=[watched.port])  # the second is gone for good
    with watched.frozen_engine():
        watched.ask("a", count=10)
        watched.ask("a", lane="bulk", count=10)
        # as many as may wait, each for its 25 s and not all at once, and more than those
        pauses = [
            *(0.5 + 2 * number for number in range(MOST_WAITING)),
            *(25.0 + number for number in range(20)),
        ]
        with watched.busy(*[(pause, lambda: watched.by_http(1)) for pause in pauses]):
            yield


@contextmanager
def _redis_killed(watched: Watched) -> Generator[None]:
    watched.service.redis.kill()
    yield
    watched.service.redis.start()
    watched.wait(lambda: watched.ready() == 2)


@contextmanager
def _nobody_there(watched: Watched) -> Generator[None]:
    watched.service.stop_launcher()
    with watched.busy(*[(0.2, lambda: watched.by_http(1))] * 4):
        yield


@contextmanager
def _no_face(watched: Watched) -> Generator[None]:
    watched.face.stop()
    yield


@contextmanager
def _not_found(watched: Watched) -> Generator[None]:
    watched.prometheus.scrape(rerankq_worker=[], rerankq_http=[])
    yield


Break = Callable[[Watched], AbstractContextManager[None]]
BREAKS: dict[str, tuple[Break, set[str], float]] = {
    "no log": (lambda it: it.configured(appendonly="no"), {"RerankqRedisMayLoseJobs"}, 30),
    "a Redis that fills": (lambda it: it.filled(0.76), {"RerankqBrokerFilling"}, 40),
    "a full Redis": (lambda it: it.filled(0.9), {"RerankqBrokerFull"}, 30),
    "a right that is gone": (lambda it: it.without_right("lindex"), {"RerankqScrapeErrors"}, 60),
    "jobs that break things": (
        _jobs_that_break_things,
        {"RerankqDeadLetters", "RerankqOutOfMemory", "RerankqInteractiveBurns"},
        150,
    ),
    "an engine killed over and over": (_engine_over_and_over, {"RerankqEngineRestarts"}, 60),
    "what an operator forgot": (
        _forgotten,
        {
            "RerankqLanePaused",
            "RerankqModelWithoutWorkers",
            "RerankqRedisAtRisk",
            "RerankqBrokerUnbounded",
        },
        HOUR_SECONDS + 30,
    ),
    "a worker killed": (_killed, {"RerankqFewerWorkers", "RerankqWorkerGone"}, 90),
    "a container started over and over": (_over_and_over, {"RerankqRestarts"}, 30),
    "bulk behind interactive": (_starving, {"RerankqLaneStarves"}, 150),
    "an engine that hangs": (
        _hung,
        {
            "RerankqCanaryFails",
            "RerankqInteractiveWaits",
            "RerankqEngineStuck",
            "RerankqLaneStandsStill",
            "RerankqHttpSlow",
            "RerankqHttpRefuses",
        },
        120,
    ),
    "hours of bulk work": (_hours_of_bulk, {"RerankqBulkWaits"}, 90),
    "a lost device": (lambda it: it.lost_device(), {"RerankqNoWorkerReady", "RerankqEngineDown"}, 90),
    "no Redis": (_redis_killed, {"RerankqRedisAway"}, 30),
    "no worker": (_nobody_there, {"RerankqNoWorker", "RerankqHttpFails"}, 60),
    "no HTTP face": (_no_face, {"RerankqNoHttp", "RerankqHttpGone"}, 60),
    "nobody found": (_not_found, {"RerankqTargetsVanished"}, 40),
}


def test_every_alert_is_seen_to_fire() -> None:
    broken = set().union(*(expected for _, expected, _ in BREAKS.values()))

    assert broken | {test_redis_disk.ALERT} == {rule["alert"] for rule in alerts()}


def test_a_busy_service_whose_workers_come_and_go_raises_nothing(seen: Seen) -> None:
    assert seen.cried == []


@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_is_told(seen: Seen, name: str) -> None:
    assert BREAKS[name][1] - seen.fired[name] == set()


def _labelled(series: Series, **labels: str) -> float:
    """The one value of those labels."""
    (value,) = (value for found, value in series if labels.items() <= found.items())
    return value


def _sum(series: Series) -> float:
    return sum(value for _, value in series)


def _about(value: float, expected: float, share: float = 0.3) -> bool:
    return abs(value - expected) <= share * expected


def _jobs(seen: Seen) -> float:
    return seen.done["interactive"] + seen.done["bulk"] + seen.done["http"]


def _pairs(seen: Seen) -> float:
    return (seen.done["interactive"] + seen.done["http"]) * INTERACTIVE_DOCUMENTS + seen.done[
        "bulk"
    ] * BULK_DOCUMENTS


FORGOTTEN, JOBS, HUNG = "what an operator forgot", "jobs that break things", "an engine that hangs"
KILLED, STARVING = "an engine killed over and over", "bulk behind interactive"
Truth = Callable[[Series, Seen], bool]
SHOWN: dict[tuple[int, str], tuple[str, Truth]] = {
    (2, "A"): ("well", lambda it, _: _sum(it) == 2),
    (3, "A"): (HUNG, lambda it, _: 10 < _sum(it) < 300),
    (4, "A"): (HUNG, lambda it, _: 10 < _sum(it) < 300),
    (5, "A"): (JOBS, lambda it, _: _sum(it) == DEADLY_JOBS),
    (6, "A"): ("a full Redis", lambda it, _: _about(_sum(it), 0.9, 0.05)),
    (8, "A"): (FORGOTTEN, lambda it, _: _labelled(it, lane="bulk") == PAUSED_JOBS),
    (9, "A"): (FORGOTTEN, lambda it, _: _about(_labelled(it, lane="bulk"), HOUR_SECONDS, 0.3)),
    (9, "B"): (FORGOTTEN, lambda it, _: _about(_labelled(it, lane="bulk"), HOUR_SECONDS, 0.3)),
    (10, "A"): (STARVING, lambda it, _: 0 < _sum(it) <= 2),
    (48, "A"): ("well", lambda it, _: [value for _, value in it] == [1, 1]),
    (49, "A"): ("well", lambda it, _: BATCH_SECONDS < _labelled(it, lane="interactive") < 10),
    (50, "A"): ("well", lambda it, _: 0 < _labelled(it, lane="interactive") < 30),
    (10, "C"): (STARVING, lambda it, _: 0 < _labelled(it, lane="interactive") <= 2),
    (36, "A"): (
        "well",
        lambda it, seen: _about(
            _labelled(it, lane="interactive", outcome="done"), seen.done["interactive"] + seen.done["http"]
        ),
    ),
    (37, "A"): (
        "well",
        lambda it, seen: (
            _about(_sum(it), _pairs(seen))
            and _about(_labelled(it, lane="bulk"), seen.done["bulk"] * BULK_DOCUMENTS)
        ),
    ),
    (38, "A"): ("well", lambda it, _: BATCH_SECONDS < _labelled(it, lane="interactive") < 1),
    (38, "B"): ("well", lambda it, _: BATCH_SECONDS < _labelled(it, lane="interactive") < 10),
    (39, "A"): ("well", lambda it, _: 0 < _labelled(it, lane="interactive") < 1),
    (39, "B"): ("well", lambda it, _: 0 < _labelled(it, lane="interactive") < 10),
    (40, "A"): ("well", lambda it, _: _labelled(it, device="cpu0", model="double", dtype="none") == 1),
    (41, "A"): ("a worker killed", lambda it, _: 1 <= _labelled(it, cause="lease_lost") < 3),
    (42, "A"): (FORGOTTEN, lambda it, _: _about(_labelled(it, reason="paused"), REFUSALS)),
    (10, "B"): (JOBS, lambda it, _: _sum(it) == DEADLY_JOBS),
    (32, "A"): (FORGOTTEN, lambda it, _: _labelled(it, lane="bulk", model="-") == PAUSED_JOBS),
    (33, "A"): (FORGOTTEN, lambda it, _: _about(_labelled(it, lane="bulk", model="-"), HOUR_SECONDS, 0.3)),
    (34, "A"): ("well", lambda it, _: _labelled(it, model="double") == _labelled(it, model="-") == 2),
    (12, "A"): ("well", lambda it, seen: _about(_sum(it), _pairs(seen))),
    (12, "B"): ("well", lambda it, _: 0 < _sum(it) <= BULK_DOCUMENTS / BATCH_SECONDS),
    (13, "A"): ("well", lambda it, seen: _about(_sum(it), _pairs(seen) * seen.done["tokens of a pair"])),
    (14, "A"): ("well", lambda it, seen: 0.7 < _sum(it) / (_jobs(seen) * BATCH_SECONDS) < 3),
    (15, "A"): ("well", lambda it, seen: _about(_sum(it), _pairs(seen) / _jobs(seen))),
    (16, "A"): ("well", lambda it, _: 0.9 < _sum(it) / BATCH_SECONDS < 3),
    (17, "A"): (HUNG, lambda it, _: [labels["state"] for labels, _ in it] == ["stuck"]),
    (17, "B"): ("well", lambda it, _: _sum(it) == 1),
    (18, "A"): (KILLED, lambda it, _: _about(_sum(it), 3 * DEADLY_JOBS + ENGINE_KILLS)),
    (18, "B"): (JOBS, lambda it, _: _about(_sum(it), TOO_LARGE_JOBS)),
    (18, "C"): (JOBS, lambda it, _: _about(_sum(it), TOO_LARGE_JOBS)),
    (19, "A"): ("well", lambda it, _: _sum(it) == 2),
    (19, "B"): ("a worker killed", lambda it, _: _sum(it) == 2),
    (21, "A"): ("well", lambda it, _: BALLAST_BYTES < _sum(it) < 2 * BALLAST_BYTES),
    (21, "B"): ("well", lambda it, _: _sum(it) == 128 * 1024**2),
    (22, "A"): ("well", lambda it, seen: _about(_labelled(it, type="task-succeeded"), _jobs(seen))),
    (23, "A"): (HUNG, lambda it, _: _sum(it) >= 0),
    (24, "A"): (FORGOTTEN, lambda it, _: _labelled(it, store="broker", risk="fsync") == 1),
    (25, "A"): ("a right that is gone", lambda it, _: _sum(it) > 0),
    (27, "A"): ("well", lambda it, seen: _about(_labelled(it, status="200"), seen.done["http"])),
    (28, "A"): ("well", lambda it, _: BATCH_SECONDS < _sum(it) < 1),
    (28, "B"): ("well", lambda it, _: BATCH_SECONDS < _sum(it) < 10),
    (29, "A"): (HUNG, lambda it, _: 0 < _sum(it) <= MOST_WAITING),
    (30, "A"): ("well", lambda it, seen: _about(_sum(it), seen.done["http"] * INTERACTIVE_DOCUMENTS)),
    (31, "A"): (HUNG, lambda it, _: _sum(it) > 0),
}
"""By a panel's id and its query's: when it is looked at, and what has to be true of what it gives."""
TITLES = {panel["id"]: panel["title"] for panel in panels()}


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: f"{TITLES[shown[0]]} {shown[1]}")
def test_a_panel_shows_what_was_done(seen: Seen, shown: tuple[int, str]) -> None:
    scene, is_true = SHOWN[shown]
    series = seen.shown[scene][shown]

    assert series, "nothing is shown"
    assert is_true(series, seen), (series, seen.done)


def test_every_query_of_the_dashboard_is_held_to_the_truth() -> None:
    queries = [(panel["id"], target) for panel in panels() for target in panel["targets"]]

    assert SHOWN.keys() == {
        (number, target["refId"]) for number, target in queries if "rerankq_gpu_" not in target["expr"]
    }


def test_the_commands_of_the_pages_run(seen: Seen) -> None:
    assert seen.commands == {}
