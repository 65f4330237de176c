"""What a producer takes for a worker."""

import pytest

from rerankq.contract import wire
from rerankq.door import read_workers

BEAT = {
    "seen": 100.0,
    "state": "ready",
    "lanes": ["bulk"],
    "device": "cpu0",
    "dtype": "fp32",
    "model": "m",
    "revision": "1",
}


@pytest.mark.parametrize("beat", [b"", b"[1]", b"{}", wire.encode(BEAT | {"seen": "today"})])
def test_a_heartbeat_that_nobody_understands_keeps_nobody_out(beat: bytes) -> None:
    workers = read_workers({b"another": beat, b"ours": wire.encode(BEAT)}, now=101.0)

    assert [(worker.name, worker.seen_seconds_ago) for worker in workers] == [("ours", 1.0)]


def test_a_worker_that_has_fallen_silent_is_none() -> None:
    assert read_workers({b"ours": wire.encode(BEAT)}, now=1e6) == ()
