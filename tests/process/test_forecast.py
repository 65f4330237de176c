"""How long a pass is expected to take."""

import math

import pytest

from rerankq_worker.engine_process.forecast import REMEMBERED_PASSES, Forecast


def after(*passes: tuple[int, int], batch: float = 0.0, pair: float = 0.0, token: float = 0.0) -> Forecast:
    forecast = Forecast()
    for pairs, tokens in passes:
        forecast.learn(pairs, tokens, batch + pair * pairs + token * tokens)
    return forecast


@pytest.mark.parametrize(
    "costs",
    [{"batch": 0.006}, {"pair": 0.0003}, {"token": 2e-6}, {"batch": 0.01, "pair": 0.0003, "token": 1e-6}],
    ids=lambda costs: "+".join(costs),
)
def test_what_a_pass_costs_is_told_by_its_pairs_and_tokens(costs: dict[str, float]) -> None:
    forecast = after((32, 5000), (32, 9000), (10, 1200), (1, 700), (32, 3000), **costs)

    expected = costs.get("batch", 0) + costs.get("pair", 0) * 20 + costs.get("token", 0) * 4000
    assert forecast.seconds_of(20, 4000) == pytest.approx(expected)


def test_passes_all_alike_tell_of_one_more() -> None:
    assert after(*[(32, 5000)] * 9, batch=0.006).seconds_of(32, 5000) == pytest.approx(0.006)


@pytest.mark.parametrize(("pairs", "tokens"), [(33, 100), (1, 5001)], ids=["more pairs", "more tokens"])
def test_of_a_pass_larger_than_any_nothing_is_known(pairs: int, tokens: int) -> None:
    assert after((32, 5000), pair=1).seconds_of(pairs, tokens) == math.inf
    assert Forecast().seconds_of(1, 1) == math.inf


def test_passes_of_long_ago_count_no_more() -> None:
    forecast = after((32, 5000), batch=1.0)
    for _ in range(REMEMBERED_PASSES):
        forecast.learn(32, 5000, 0.006)

    assert forecast.seconds_of(32, 5000) == pytest.approx(0.006)
