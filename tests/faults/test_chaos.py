"""Case z: half a minute of everything at random, and the time to recover. The long form is `make chaos`."""

import pytest

from benchmarks import chaos


@pytest.mark.timeout(300)
def test_every_job_accepted_in_a_storm_of_faults_is_answered() -> None:
    counts = chaos.run(seed=1, seconds=30)

    assert counts["accepted"] > 50
    assert counts["poison_jobs"] >= 1
    assert counts["never_answered"] == 0
    assert counts["poison_max_attempts"] <= 5  # three count; one that an outage of Redis ended does not
