"""What an engine process does when its engine cannot be had; without a process around it."""

from pathlib import Path

import pytest

from rerankq_worker.doubles import Behaviour, DoubleEngine
from rerankq_worker.engine_process import process as engine_process
from rerankq_worker.engine_process.watchdog import BROKEN, Watchdog
from rerankq_worker.link.health import EngineStatus
from rerankq_worker.scoring import EngineBroken
from rerankq_worker.settings import WorkerSettings


@pytest.fixture
def watchdog(tmp_path: Path) -> Watchdog:
    status = EngineStatus(state="loading", pid=1, device="gpu0", boot="b", starts=1, started_monotonic=0.0)
    return Watchdog(tmp_path / "gpu0.json", status, stuck_after_seconds=60, parent_pid=None)


def test_a_device_lost_while_warming_up_ends_the_process_as_broken(
    watchdog: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(DoubleEngine):
        def warm_up(self) -> None:
            raise EngineBroken("fell off the bus")

    ended: list[object] = []
    monkeypatch.setattr(watchdog, "end", lambda *how: ended.append(how))
    monkeypatch.setattr(
        engine_process, "make_engine", lambda settings, device: Lost(settings, device, Behaviour())
    )

    with pytest.raises(EngineBroken):
        engine_process._load(WorkerSettings(), "gpu0", watchdog)

    assert ended == [("broken", BROKEN, "EngineBroken: fell off the bus")]
