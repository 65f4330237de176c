"""Redis's time, told from what it said and from no clock that anybody can set."""

import time

import pytest

from rerankq.contract.clock import RedisClock

AHEAD = 3600.0  # of our own wall clock


def told(unix_seconds: float) -> tuple[int, int]:
    return int(unix_seconds), int(unix_seconds % 1 * 1e6)


def test_a_clock_that_has_learned_nothing_has_our_own_time() -> None:
    clock = RedisClock()

    assert clock.is_stale
    assert clock.now() == pytest.approx(time.time(), abs=5)


def test_moments_are_turned_from_one_clock_to_the_other_and_back() -> None:
    clock = RedisClock()
    clock.learn(told(time.time() + AHEAD), time.monotonic())

    ours = time.time() + 60
    assert clock.from_ours(ours) == pytest.approx(ours + AHEAD, abs=5)
    assert clock.to_ours(clock.from_ours(ours)) == pytest.approx(ours, abs=5)
    assert not clock.is_stale


def test_setting_our_wall_clock_does_not_move_redis_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = RedisClock()
    clock.learn(told(1000.0), time.monotonic())
    monkeypatch.setattr(time, "time", lambda: 5.0)

    assert clock.now() == pytest.approx(1000.0, abs=5)
    assert clock.from_ours(65.0) == pytest.approx(1060.0, abs=5)


def test_a_slow_reply_does_not_blur_what_a_quick_one_told() -> None:
    clock, now = RedisClock(), time.monotonic()
    clock.learn(told(1000.0), now)
    clock.learn(told(1000.0), now - 100.0)  # would put the middle 50 s further

    assert clock.now() == pytest.approx(1000.0, abs=5)


def test_a_redis_whose_clock_was_set_is_believed_at_once() -> None:
    clock, now = RedisClock(), time.monotonic()
    clock.learn(told(1000.0), now)
    clock.learn(told(5000.0), now - 100.0)

    assert clock.now() == pytest.approx(5050.0, abs=5)
