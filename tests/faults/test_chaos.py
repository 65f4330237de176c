"""Case z: a minute of everything at random. The long form is `make chaos`."""

import pytest

from benchmarks import chaos


@pytest.mark.timeout(300)
def test_every_job_accepted_in_a_minute_of_mixed_faults_is_answered() -> None:
    counts = chaos.run(seed=1, seconds=45)

    assert counts["accepted"] > 50
    assert counts["never_answered"] == 0
    assert 1 <= counts["poison_max_attempts"] <= 3
