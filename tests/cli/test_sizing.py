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


@pytest.mark.parametrize("rate", [0.01, 10, 100, 3000])
def test_no_fleet_is_planned_to_be_always_busy_however_patient_its_callers(rate: float) -> None:
    fleet = fleet_for(rate, service_seconds=0.1, overhead_seconds=0, within_seconds=3600)

    assert fleet is not None
    assert fleet.busy <= MOST_BUSY


def test_the_same_load_always_needs_as_many() -> None:
    assert fleet_for(25, 0.1, 0.01, 0.4) == fleet_for(25, 0.1, 0.01, 0.4)
