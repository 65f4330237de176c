"""How long a pass is expected to take."""

import math
from collections.abc import Callable, Sequence
from random import Random

import pytest

from rerankq_worker.engine_process.forecast import FEWEST_PASSES, REMEMBERED_PASSES, Forecast, Size

Device = Callable[[Sequence[int]], float]

DEVICES: dict[str, Device] = {
    "a batch": lambda _: 0.006,
    "pairs": lambda rows: 0.0003 * len(rows),
    "tokens": lambda rows: 2e-6 * sum(rows),
    "padding": lambda rows: 0.001 + 2e-6 * len(rows) * max(rows),
    "attention": lambda rows: 0.001 + 2e-6 * sum(rows) + 1e-8 * sum(length**2 for length in rows),
}


def batches(seed: int, count: int) -> list[list[int]]:
    random = Random(seed)
    return [[random.randint(16, 512) for _ in range(random.randint(1, 32))] for _ in range(count)]


def after(passes: Sequence[Sequence[int]], device: Device) -> Forecast:
    forecast = Forecast()
    for rows in passes:
        forecast.learn(Size.of(rows), device(rows))
    return forecast


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_what_a_pass_takes_is_told_by_those_before_it_whatever_it_grows_with(device: Device) -> None:
    full = [512] * 32
    forecast = after([full, *batches(1, REMEMBERED_PASSES - 1)], device)

    for rows in batches(2, 20):
        assert forecast.seconds_of(Size.of(rows)) == pytest.approx(device(rows))


def test_passes_all_alike_tell_of_one_more() -> None:
    alike = [160] * 32
    assert after([alike] * FEWEST_PASSES, lambda _: 0.006).seconds_of(Size.of(alike)) == pytest.approx(0.006)


def test_where_passes_differ_for_no_known_reason_the_end_is_expected_as_late_as_nearly_all_were() -> None:
    alike = [160] * 32
    seconds = iter([0.006, 0.010] * (REMEMBERED_PASSES // 2))

    assert after([alike] * REMEMBERED_PASSES, lambda _: next(seconds)).seconds_of(
        Size.of(alike)
    ) == pytest.approx(0.010)


def test_a_few_passes_that_were_held_up_put_off_no_other() -> None:
    alike = [160] * 32
    seconds = iter([0.5] * 3 + [0.006] * (REMEMBERED_PASSES - 3))

    expected = after([alike] * REMEMBERED_PASSES, lambda _: next(seconds)).seconds_of(Size.of(alike))

    assert expected < 0.06


@pytest.mark.parametrize("rows", [[3] * 33, [512] * 4], ids=["more pairs", "longer rows"])
def test_of_a_pass_larger_than_any_nothing_is_known(rows: list[int]) -> None:
    assert after([[160] * 32] * FEWEST_PASSES, DEVICES["pairs"]).seconds_of(Size.of(rows)) == math.inf


def test_of_a_few_passes_nothing_is_known() -> None:
    alike = [160] * 32
    assert after([alike] * (FEWEST_PASSES - 1), DEVICES["pairs"]).seconds_of(Size.of(alike)) == math.inf


def test_passes_of_long_ago_count_no_more() -> None:
    alike = [160] * 32
    seconds = iter([1.0] * REMEMBERED_PASSES + [0.006] * REMEMBERED_PASSES)
    forecast = after([alike] * 2 * REMEMBERED_PASSES, lambda _: next(seconds))

    assert forecast.seconds_of(Size.of(alike)) == pytest.approx(0.006)
