"""What `rerankq top` tells: of two readings, of a Redis that lets it see a part, on a terminal."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from redis import Redis
from typer.testing import CliRunner

from rerankq.cli.app import app
from rerankq.cli.overview import Reading, lanes_of, read
from rerankq.contract import keys, wire
from rerankq.contract.heartbeats import Heartbeats, WorkerStatus
from rerankq.contract.messages import LANES
from rerankq.contract.orders import Order, Orders
from rerankq.contract.totals import of_end, of_ranking, totals_in
from tests.redis_server import RedisServer

WORKER = WorkerStatus(name="w@h", state="ready", lanes=LANES, seconds_per_job={"bulk": 2.0})


def reading(at: float, waiting: int, done: int, **fields: Any) -> Reading:
    counts = {name: count * done for name, count in of_ranking("bulk", 8, 0.1, 0.2).items()}
    told: dict[str, Any] = {
        "workers": (WORKER,),
        "paused": {},
        "oldest_seconds": {},
        "in_hand": {"bulk": 1},
        "dead": {},
        "info": None,
    }
    return Reading(
        at_monotonic=at,
        now=1000.0 + at,
        waiting={("interactive", None): 0, ("bulk", None): waiting},
        totals=totals_in({name.encode(): b"%d" % count for name, count in counts.items()}),
        **told | fields,
    )


FLOWS = {
    "it empties": ((100, 0), (80, 40), {"in": 2.0, "out": 4.0, "empties": 40.0, "needed": 4}),
    "it grows": ((0, 0), (20, 10), {"in": 3.0, "out": 1.0, "empties": float("inf"), "needed": 6}),
    "nothing comes": ((10, 0), (10, 0), {"in": 0.0, "out": 0.0, "empties": float("inf"), "needed": 1}),
    "nothing waits": ((0, 0), (0, 10), {"in": 1.0, "out": 1.0, "empties": 0.0, "needed": 2}),
}


@pytest.mark.parametrize(("then", "now", "told"), FLOWS.values(), ids=FLOWS)
def test_two_readings_tell_what_comes_and_goes_and_how_many_workers_would_do(
    then: tuple[int, int], now: tuple[int, int], told: dict[str, float]
) -> None:
    bulk = lanes_of(reading(10.0, *now), reading(0.0, *then))[1]

    found = (bulk.in_per_second, bulk.out_per_second, bulk.empties_in_seconds, bulk.workers_needed)
    assert found == tuple(told.values())


def test_one_reading_tells_of_no_rate_and_a_paused_lane_never_empties() -> None:
    paused = reading(0.0, 3, 0, paused={"bulk": Order(since=900.0, by="ann@h")})

    bulk = lanes_of(paused)[1]

    assert (bulk.in_per_second, bulk.empties_in_seconds) == (None, float("inf"))
    assert (bulk.paused_seconds, bulk.paused_by) == (100.0, "ann@h")


def test_times_are_those_of_jobs_between_the_readings_or_of_all_where_there_were_none() -> None:
    earlier, later = reading(0.0, 0, 10), reading(1.0, 0, 10)

    bulk = lanes_of(later, earlier)[1]

    assert 0.1 < (bulk.p50_seconds or 0) <= (bulk.p95_seconds or 0) <= 0.25


def test_a_worker_that_drains_is_none_that_takes_jobs() -> None:
    draining = reading(0.0, 0, 0, workers=(replace(WORKER, is_draining=True), WORKER))

    assert lanes_of(draining)[1].workers == 1


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator["Redis"]:
    with redis_server.client() as redis:
        redis.flushall()
        Heartbeats(redis).tell(WORKER)
        yield redis


def test_each_model_that_jobs_wait_for_has_a_row_of_its_own(redis: "Redis") -> None:
    redis.zadd(keys.MODELS, {"org/name": 1})
    redis.lpush(keys.queue_of("bulk", "org/name"), "a", "b")
    redis.lpush(keys.queue_of("bulk"), "c")
    redis.hset(
        keys.HELD,
        mapping={"1": f"{keys.queue_of('bulk')}\n{{}}", "2": f"{keys.queue_of('interactive')}\n{{}}"},
    )
    redis.zadd(keys.DEAD, {"x": 1})
    redis.hset(keys.dead_letter("x"), "lane", keys.queue_of("bulk", "org/name"))
    redis.hset(keys.TOTALS, mapping={**of_end("bulk", "dead")})
    Orders(redis).pause("bulk", "org/name", "ann@h")

    found = lanes_of(read(redis))

    assert [(each.lane, each.model, each.waiting) for each in found] == [
        ("interactive", None, 0),
        ("bulk", None, 3),
        ("bulk", "org/name", 2),
    ]
    assert [(each.in_hand, each.dead) for each in found[:2]] == [(1, 0), (1, 1)]
    assert (found[2].workers, found[2].paused_by) == (0, "ann@h")


def test_a_model_that_alone_is_paused_has_its_row_before_any_of_its_jobs_waits(redis: "Redis") -> None:
    for model in ("double", "nobodys"):
        Orders(redis).pause("bulk", model, "ann@h")

    found = {each.model: each for each in lanes_of(read(redis)) if each.model}

    assert {(each.lane, each.waiting, each.paused_by) for each in found.values()} == {("bulk", 0, "ann@h")}
    assert set(found) == {"double", "nobodys"}


def test_what_its_user_may_not_read_is_named_and_the_rest_is_told(
    redis: "Redis", redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rights = [
        "-@all",
        "+time",
        "+hgetall",
        "+zrange",
        "+llen",
        "+lindex",
        "+hget",
        "+ping",
        "+select",
        "+client",
    ]
    redis.execute_command("ACL", "SETUSER", "looker", "on", ">sesame", "~*", *rights)
    monkeypatch.setenv("RERANKQ_BROKER_URL", redis_server.url.replace("redis://", "redis://looker:sesame@"))

    told = json.loads(printed("top", "--json"))
    words = printed("top")

    assert [worker["name"] for worker in told["workers"]] == ["w@h"]
    assert {part: why["what"] for part, why in told["not_read"].items()} == dict.fromkeys(
        ("in hand", "dead letters", "redis"), "NOPERM"
    )
    assert "not read: in hand (NOPERM): this user may not do that" in words
    assert "w@h" in words


def test_an_older_worker_has_its_row(
    redis: "Redis", redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = {"seen": redis.time()[0], "state": "ready", "lanes": ["bulk"]}  # pyright: ignore[reportIndexIssue]
    redis.hset(keys.WORKERS, "old@h", wire.encode(beat))

    monkeypatch.setenv("RERANKQ_BROKER_URL", redis_server.url)
    told = printed("top", "--once")

    row = next(line for line in told.splitlines() if line.startswith("old@h"))
    assert row.split()[:3] == ["old@h", "ready", "older"]


def printed(*words: str) -> str:
    """What a command says in a pipe, in this process."""
    done = CliRunner().invoke(app, [*words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.mark.parametrize(("typed", "columns"), [(b"q", 140), (b"\x03", 44)], ids=["q", "Ctrl-C, narrow"])
def test_on_a_terminal_it_goes_on_until_somebody_leaves(
    redis: "Redis", redis_server: RedisServer, typed: bytes, columns: int
) -> None:
    seen, exit_code = _on_a_terminal(redis_server.url, columns, typed)

    assert exit_code == 0
    assert seen.count("q leaves") >= 2
    assert "w@h" in seen
    assert ("release" in seen) == (columns > 100)
    assert "…" not in seen


def test_a_worker_that_does_not_serve_stands_above_those_that_do(
    redis: "Redis", redis_server: RedisServer
) -> None:
    for number in range(40):
        Heartbeats(redis).tell(replace(WORKER, name=f"w{number}@h"))
    Heartbeats(redis).tell(replace(WORKER, name="z@h", state="stuck"))

    seen, exit_code = _on_a_terminal(redis_server.url, 140, signal.SIGTERM)

    assert "z@h" in seen
    assert "… and" in seen
    assert exit_code == 128 + signal.SIGTERM
    assert seen.rstrip().endswith("\x1b[?1049l")  # the terminal is as it was


def _on_a_terminal(url: str, columns: int, leave_by: bytes | signal.Signals) -> tuple[str, int]:
    """What is drawn until two pictures are there and this is typed or sent; the exit code."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**os.environ, "RERANKQ_BROKER_URL": url, "TERM": "xterm", "NO_COLOR": "1"}
    environment.pop("COLUMNS", None)
    command = [sys.executable, "-m", "rerankq.cli", "top", "--interval", "0.2"]
    process = subprocess.Popen(
        command,
        stdin=its,
        stdout=its,
        stderr=its,
        env=environment,
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(its)
    seen, give_up_at = b"", time.monotonic() + 30
    try:
        while process.poll() is None and time.monotonic() < give_up_at:
            if select.select([ours], [], [], 0.1)[0]:
                seen += os.read(ours, 65536)
            if seen.count(b"q leaves") >= 2 and isinstance(leave_by, bytes):
                os.write(ours, leave_by)
                leave_by = b""
            elif seen.count(b"q leaves") >= 2:
                process.send_signal(leave_by)
                leave_by = b""
    except OSError:  # it has closed its side
        process.wait(20)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        os.close(ours)
    return seen.decode(errors="replace"), process.wait(20)


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
