"""What `benchmarks.bench_service` makes of what it counted; the counting itself is tried by running it."""

from typing import Any

import pytest

from benchmarks import service_sides as sides
from benchmarks.bench_http import ratio


def told(jobs: int, seconds: float, **after: Any) -> dict[str, Any]:
    counts = {"processor": {}, "redis": {"calls": {}, "bytes": {}}, "device": []}
    return {
        "before": {**counts, "clock": 5.0},
        "after": {**counts, "clock": 5.0 + seconds, **after},
        "took_ms": [float(ms) for ms in range(1, jobs + 1)],
        "parts_ms": [(3.0, 2.0, 1.0)] * jobs,
    }


def test_a_ratio_is_taken_within_a_round_and_told_by_median_and_range() -> None:
    assert ratio([10, 30, 5], [20, 20, 20]) == {"ratio": 0.5, "range": [0.25, 1.5]}


@pytest.mark.parametrize(
    ("share", "value"),
    [pytest.param(0.5, 51, id="half"), pytest.param(0.99, 100, id="99 %"), pytest.param(1.0, 100, id="all")],
)
def test_a_percentile_is_one_of_the_values(share: float, value: int) -> None:
    assert sides.percentile(list(range(100, 0, -1)), share) == value


def test_counters_count_from_where_they_stood_and_new_ones_from_nothing() -> None:
    before = {"redis": {"get": 7}, "devices": [{"pairs": 1}]}
    after = {"redis": {"get": 9, "set": 4}, "devices": [{"pairs": 33}]}

    assert sides.risen({"before": before, "after": after}) == {
        "redis": {"get": 2, "set": 4},
        "devices": [{"pairs": 32}],
    }


def test_a_job_costs_what_all_processes_and_redis_spent_over_all_rounds() -> None:
    redis = {"calls": {"get": 6, "set": 2}, "bytes": {"in": 400, "out": 100}}
    spent = {"processor": {"client": 0.01, "parents": 0.03}, "redis": redis}

    row = sides.a_job([told(2, 1.0, **spent), told(2, 1.0)], 4)

    assert row == {
        "cpu_ms": 10.0,
        "cpu_ms_of": {"client": 2.5, "parents": 7.5},
        "redis_commands": 2.0,
        "redis_calls": {"get": 1.5, "set": 0.5},
        "redis_bytes": {"in": 100, "out": 25},
    }


def test_callers_have_the_jobs_of_a_round_by_its_clock_and_the_waits_of_all() -> None:
    row = sides.answered([told(3, 1.0), told(5, 2.5), told(1, 1.0)])

    assert (row["per_second"], row["p50_ms"], row["p99_ms"]) == (2.0, 2.0, 5.0)
    assert [row[f"{part}_ms"] for part in sides.PARTS_OF_A_JOB] == [3.0, 2.0, 1.0]


def test_several_devices_are_busy_together() -> None:
    came = told(1, 2.0, device=[{"pairs": 600, "busy_seconds": 1.0, "batches": 20}] * 2)
    came["before"]["device"] = [{"pairs": 100, "busy_seconds": 0.5, "batches": 10}] * 2

    assert sides.device(came) == {"pairs_per_second": 500, "busy": 0.5}
    assert sides.batch_ms([came]) == 50


def test_sides_are_compared_where_there_are_two() -> None:
    mine, theirs = [told(2, 1.0)], [told(2, 0.5)]

    assert sides.ratios({"this": mine}, per_second=sides.per_second) == {}
    assert sides.ratios({"this": mine, "against": theirs}, per_second=sides.per_second) == {
        "per_second": {"ratio": 0.5, "range": [0.5, 0.5]}
    }


def test_no_two_documents_of_a_job_are_alike() -> None:
    assert all(len(set(documents)) == 50 for _, documents in sides.jobs_of(50))
