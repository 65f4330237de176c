"""How many devices a load needs, beside what queueing theory says."""

import statistics

import pytest

from rerankq.cli.sizing import MOST_BUSY, fleet_for, fleet_of, sojourns


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_one_device_with_one_worker_is_the_queue_of_pollaczek_and_khinchine(busy: float) -> None:
    service = 0.1

    mean_wait = statistics.fmean(sojourns(1, busy / service, service, workers=1)) - service

    assert mean_wait == pytest.approx(busy * service / (2 * (1 - busy)), rel=0.1)


def test_the_smallest_fleet_that_is_in_time_is_chosen() -> None:
    fleet = fleet_for(40, service_seconds=0.1, overhead_seconds=0.02, within_seconds=0.3)

    assert fleet is not None
    assert fleet.p99_seconds <= 0.3 < fleet_of(fleet.devices - 1, 40, 0.1, 0.02).p99_seconds
    assert fleet.p50_seconds >= 0.12
    assert fleet.busy == pytest.approx(4 / fleet.devices)


def test_no_fleet_makes_one_job_quicker_than_it_is_alone() -> None:
    assert fleet_for(1, service_seconds=0.4, overhead_seconds=0.2, within_seconds=0.5) is None


def test_jobs_too_small_to_fill_a_device_are_as_many_as_its_workers_answer() -> None:
    """A pass of 20 ms for one document or 32, 2 workers: packs of bulk work have 1,600 pairs/s, callers 100 jobs/s."""
    fleet = fleet_for(200, service_seconds=1 / 1600, overhead_seconds=0.02, within_seconds=0.5, workers=2)

    assert fleet is not None
    assert fleet.devices >= 200 / 100 / MOST_BUSY
    assert fleet.busy == pytest.approx(200 / fleet.devices / (2 / 0.020625))


def test_what_answers_differ_by_without_a_queue_counts_against_the_time_there_is() -> None:
    steady, spread = (fleet_for(40, 0.1, 0.02, 0.25, 2, seconds) for seconds in (0.0, 0.1))

    assert steady is not None
    assert spread is not None
    assert spread.devices > steady.devices
    assert spread.p99_seconds <= 0.25
    assert fleet_for(40, 0.1, 0.02, 0.3, 2, spread_seconds=0.19) is None


@pytest.mark.parametrize("rate", [0.01, 10, 100, 3000])
def test_no_fleet_is_planned_to_be_always_busy_however_patient_its_callers(rate: float) -> None:
    fleet = fleet_for(rate, service_seconds=0.1, overhead_seconds=0, within_seconds=3600)

    assert fleet is not None
    assert fleet.busy <= MOST_BUSY


def test_the_same_load_always_needs_as_many() -> None:
    assert fleet_for(25, 0.1, 0.01, 0.4) == fleet_for(25, 0.1, 0.01, 0.4)
