"""What is taken for a worker, whatever somebody else has written beside it."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
from redis import Redis

from rerankq.contract import keys, wire
from rerankq.contract.heartbeats import FORGET_AFTER_SECONDS, TRAFFIC_MEMORY_SECONDS, Heartbeats, WorkerStatus
from rerankq.contract.served import served_models
from tests.redis_server import RedisServer

OURS = WorkerStatus(name="ours@host", state="ready", lanes=("bulk",), device="cpu0")
BEAT = {"seen": 1.0, "state": "ready", "lanes": ["bulk"]}

STRANGE = [
    pytest.param(b'{"name":"x"}', id="another program's"),
    pytest.param(b"", id="empty"),
    pytest.param(b"\xff\x00", id="no JSON"),
    pytest.param(b"[1]", id="a list"),
    pytest.param(b"17", id="a number"),
    pytest.param(b"null", id="nothing"),
    pytest.param(b"[" * 5000, id="deeply nested"),
    pytest.param(b'{"seen": 1e999, "state": "ready", "lanes": ["bulk"]}', id="an infinite moment"),
    pytest.param(wire.encode(BEAT | {"seen": "today"}), id="a moment in words"),
    pytest.param(wire.encode(BEAT | {"seen": True}), id="a moment that is a truth"),
    pytest.param(wire.encode(BEAT | {"lanes": 5}), id="a number of lanes"),
    pytest.param(wire.encode(BEAT | {"state": None}), id="no state"),
    pytest.param(wire.encode(BEAT | {"seen": 9e18}), id="a moment in the far future"),
    pytest.param(b'{"bulk": "fast", "interactive": []}', id="a pace in words"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis(server: RedisServer) -> "Iterator[Redis]":
    with server.client() as redis:
        redis.flushall()
        yield redis


@pytest.mark.parametrize("key", [keys.WORKERS, keys.PACE])
@pytest.mark.parametrize("told", STRANGE)
def test_what_nobody_understands_keeps_nobody_out(redis: "Redis", key: str, told: bytes) -> None:
    redis.hset(key, b"other@\xff", told)

    Heartbeats(redis).tell(OURS)

    assert [worker.name for worker in Heartbeats(redis).alive()] == [OURS.name]


def test_lost_is_who_fell_silent_and_took_no_leave(redis: "Redis") -> None:
    now = redis.time()[0]
    for name, age in {"alive": 1, "lost": 60, "forgotten": FORGET_AFTER_SECONDS + 60}.items():
        redis.hset(keys.WORKERS, name, wire.encode(BEAT | {"seen": now - age}))
    heartbeats = Heartbeats(redis)
    heartbeats.tell(OURS)
    heartbeats.leave(OURS.name)

    assert heartbeats.lost() == 1


@pytest.mark.parametrize("key", [keys.WORKERS, keys.PACE])
def test_a_key_of_another_type_is_nobody_until_the_next_beat_replaces_it(redis: "Redis", key: str) -> None:
    redis.set(key, "a string")
    heartbeats = Heartbeats(redis)

    assert heartbeats.alive() == ()
    heartbeats.tell(OURS)
    heartbeats.tell_pace(OURS.name, {"bulk": 0.5}, 512.0)

    (worker,) = heartbeats.alive()
    assert (worker.seconds_per_job, worker.pairs_per_second) == ({"bulk": 0.5}, 512.0)


def test_pairs_scored_long_ago_count_for_less_and_those_of_an_older_worker_for_none(redis: "Redis") -> None:
    heartbeats = Heartbeats(redis)
    for name in ("late@h", "long-ago@h", "older@h"):
        heartbeats.tell(replace(OURS, name=name))
        heartbeats.tell_pace(name, {"bulk": 0.5}, 512.0, 1000.0)
    long_ago = {"bulk": 0.5, "recent_pairs": 1000.0, "told": redis.time()[0] - 2 * TRAFFIC_MEMORY_SECONDS}
    redis.hset(
        keys.PACE, mapping={"long-ago@h": wire.encode(long_ago), "older@h": wire.encode({"bulk": 0.5})}
    )

    recent = {worker.name: worker.recent_pairs for worker in heartbeats.alive()}

    assert recent["late@h"] == pytest.approx(1000, rel=0.1)
    assert recent["long-ago@h"] == pytest.approx(1000 / math.e**2, rel=0.1)
    assert recent["older@h"] == 0


def test_an_older_worker_serves_no_model_by_its_name(redis: "Redis") -> None:
    older = BEAT | {"seen": redis.time()[0], "model": "m", "revision": "1"}
    redis.hset(keys.WORKERS, "older@host", wire.encode(older))

    (worker,) = Heartbeats(redis).alive()
    listed = served_models([worker], {("bulk", "m"): 2})

    assert [worker.may_serve(model) for model in (None, "m", "m@1")] == [True, False, False]
    assert [(each.model, len(each.workers), each.waiting["bulk"]) for each in listed] == [
        ("m", 1, 0),
        ("m", 0, 2),
    ]


def test_a_later_release_may_say_more_and_serve_other_lanes(redis: "Redis") -> None:
    now = redis.time()[0]
    told = BEAT | {
        "seen": now,
        "state": "resting",
        "lanes": ["bulk", "nightly"],
        "limits_seconds": {"nightly": 3},
    }
    redis.hset(keys.WORKERS, "later@host", wire.encode(told))

    (worker,) = Heartbeats(redis).alive()

    assert (worker.state, worker.lanes) == ("resting", ("bulk",))


def test_what_an_older_worker_does_not_say_is_left_open(redis: "Redis") -> None:
    redis.hset(keys.WORKERS, "older@host", wire.encode(BEAT | {"seen": redis.time()[0]}))

    (worker,) = Heartbeats(redis).alive()

    assert (worker.version, worker.contract, worker.host, worker.job) == ("", 0, "", "")
    assert (worker.job_seconds, worker.device_busy, worker.is_draining) == (None, None, False)
    assert worker.clock_ahead_seconds is None


def test_a_worker_that_has_fallen_silent_is_none(redis: "Redis") -> None:
    silent_since = redis.time()[0] - keys.HEARTBEAT_TTL_SECONDS - 1
    redis.hset(keys.WORKERS, "silent@host", wire.encode(BEAT | {"seen": silent_since}))

    assert Heartbeats(redis).alive() == ()


def test_who_has_been_silent_for_an_hour_is_forgotten_with_his_pace(redis: "Redis") -> None:
    gone_since = redis.time()[0] - FORGET_AFTER_SECONDS - 1
    redis.hset(keys.WORKERS, "gone@host", wire.encode(BEAT | {"seen": gone_since}))
    redis.hset(keys.PACE, "gone@host", wire.encode({"bulk": 1.0}))

    Heartbeats(redis).tell(OURS)

    assert (redis.hkeys(keys.WORKERS), redis.hkeys(keys.PACE)) == ([OURS.name.encode()], [])
