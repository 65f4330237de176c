"""Counts of jobs: which field each goes to, and what they tell together."""

import math
from collections import Counter
from typing import Any

import pytest
from celery.exceptions import TimeLimitExceeded

from rerankq.contract.errors import Cancelled, DeadlineExceeded, InvalidRequest, JobFailed
from rerankq.contract.keys import JOB_TTL_SECONDS
from rerankq.contract.totals import (
    BOUNDS_SECONDS,
    CAUSES,
    REFUSALS,
    Histogram,
    of_delivery,
    of_end,
    of_ranking,
    of_refusal,
    outcome_of,
    totals_in,
)


def as_told(*added: dict[str, int]) -> dict[bytes, bytes]:
    """What lies in Redis after these were added."""
    sums: Counter[str] = Counter()
    for each in added:
        sums.update(each)
    return {name.encode(): str(count).encode() for name, count in sums.items()}


def test_what_was_added_is_told_by_lane_outcome_and_bucket() -> None:
    told = as_told(
        of_ranking("bulk", 50, 0.005, 3.0),
        of_ranking("bulk", 7, 0.0051, 4.0),
        of_end("interactive", "expired"),
        {of_delivery("lease_lost"): 3, of_refusal("memory"): 2},
    )

    totals = totals_in(told)

    assert {end: count for end, count in totals.jobs.items() if count} == {
        ("bulk", "done"): 2,
        ("interactive", "expired"): 1,
    }
    assert totals.pairs == {"interactive": 0, "bulk": 57}
    assert totals.waits["bulk"].counts[:2] == (1, 1)
    assert totals.waits["bulk"].sum_seconds == pytest.approx(0.0101)
    assert totals.times["bulk"].counts[BOUNDS_SECONDS.index(5.0)] == 2
    assert totals.times["interactive"].count == 0
    assert totals.deliveries == dict.fromkeys(CAUSES, 0) | {"lease_lost": 3}
    assert totals.refusals == dict.fromkeys(REFUSALS, 0) | {"memory": 2}


def test_a_job_whose_submission_nobody_recorded_is_counted_without_times() -> None:
    totals = totals_in(as_told(of_ranking("bulk", 5, None, None)))

    assert totals.jobs["bulk", "done"] == 1
    assert totals.waits["bulk"].count == totals.times["bulk"].count == 0


@pytest.mark.parametrize("seconds", [1e13, 1e300])
def test_a_record_with_an_absurd_time_leaves_the_sum_room_for_others(seconds: float) -> None:
    totals = totals_in(as_told(of_ranking("bulk", 5, seconds, seconds), of_ranking("bulk", 5, -seconds, 1.0)))

    assert totals.waits["bulk"].count == totals.times["bulk"].count == 2
    assert totals.waits["bulk"].sum_seconds == JOB_TTL_SECONDS
    assert totals.times["bulk"].sum_seconds == JOB_TTL_SECONDS + 1


ENDS = {
    "a ranking": (None, "done"),
    "called off": (Cancelled("x"), "cancelled"),
    "out of time": (DeadlineExceeded("x"), "expired"),
    "given up": (JobFailed("x", {"dead": True}), "dead"),
    "failed": (JobFailed("x"), "failed"),
    "refused": (InvalidRequest("x"), "failed"),
    "killed at its limit": (TimeLimitExceeded(30), "expired"),
    "something else of its worker's": (TimeoutError(), "failed"),
}


@pytest.mark.parametrize(("error", "outcome"), ENDS.values(), ids=ENDS)
def test_an_end_has_the_name_that_its_status_has(error: Any, outcome: str) -> None:
    assert outcome_of(error) == outcome


STRANGE = {
    "no count": {b"jobs:bulk:done": b"many"},
    "below zero": {b"jobs:bulk:done": b"-4"},
    "longer than a count can be": {b"jobs:bulk:done": b"1" * 5000},
    "another lane": {b"jobs:urgent:done": b"1"},
    "no bound": {b"time:bulk:soon": b"1"},
    "not of us": {b"\xff": b"1"},
}


@pytest.mark.parametrize("told", STRANGE.values(), ids=STRANGE)
def test_what_is_no_count_of_ours_is_left_out(told: dict[bytes, bytes]) -> None:
    assert totals_in(told) == totals_in({})


def test_a_bucket_of_another_release_counts_in_the_next_larger_one() -> None:
    histogram = totals_in({b"time:bulk:3": b"2", b"time:bulk:1e9": b"1"}).times["bulk"]

    assert histogram.counts[BOUNDS_SECONDS.index(5.0)] == 2
    assert histogram.counts[-1] == 1


def histogram(**counts: int) -> Histogram:
    """One with so many jobs in the buckets below these bounds, `s5=2`."""
    by_bound = {float(bound.removeprefix("s").replace("_", ".")): count for bound, count in counts.items()}
    return Histogram(tuple(by_bound.get(bound, 0) for bound in (*BOUNDS_SECONDS, math.inf)))


QUANTILES = {
    "of no job": (histogram(), 0.5, None),
    "the middle of a bucket": (histogram(s5=4), 0.5, 3.75),
    "the end of a bucket": (histogram(s5=4), 1.0, 5.0),
    "of two buckets": (histogram(s1=1, s10=1), 0.75, 7.5),
    "none below": (histogram(s1=1, s10=1), 0.0, 0.5),
    "beyond all": (histogram(s1=1, sinf=9), 0.95, BOUNDS_SECONDS[-1]),
}


@pytest.mark.parametrize(("of", "fraction", "seconds"), QUANTILES.values(), ids=QUANTILES)
def test_a_quantile_lies_within_its_bucket(of: Histogram, fraction: float, seconds: float | None) -> None:
    assert of.quantile(fraction) == seconds


def test_what_came_since_is_the_difference_or_all_where_counting_began_anew() -> None:
    earlier, later = histogram(s1=5), histogram(s1=7, s5=1)

    assert later.since(earlier).counts == histogram(s1=2, s5=1).counts
    assert earlier.since(later) == earlier
