"""Case z: every fault once in random order, and the time to recover. Longer still is `make chaos`."""

import pytest

from benchmarks import chaos


@pytest.mark.timeout(480)
def test_every_job_accepted_in_a_storm_of_faults_is_answered() -> None:
    counts = chaos.run(seed=1, seconds=0, longest_pause_seconds=1.0)

    assert counts["accepted"] > 50
    assert counts["poison_jobs"] >= 1
    assert counts["never_answered"] == 0
    assert counts["failed"] == 0
    assert counts["shifted_expired"] == 0
    assert counts["poison_max_attempts"] <= 5  # three count; one that an outage of Redis ended does not
