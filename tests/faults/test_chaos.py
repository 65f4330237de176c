"""A few faults in random order under load; every kind is struck in `long/test_chaos.py`."""

from benchmarks import chaos

KINDS = ["kill_child", "kill_worker", "kill_engine", "kill_redis", "freeze_redis", "delete_lane"]


def test_every_job_accepted_under_a_few_faults_is_answered() -> None:
    counts = chaos.run(seed=1, seconds=0, kinds=KINDS, longest_pause_seconds=0.5)

    assert counts["faults"] == dict.fromkeys(sorted(KINDS), 1)
    assert counts["accepted"] > 10
    assert counts["never_answered"] == 0
    assert counts["failed"] == 0
