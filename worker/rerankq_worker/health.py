"""How an engine is, told by a small file that it renews four times a second, and read without asking the engine.

Knows files and process ids: no torch, no Celery, no Redis. So a check costs milliseconds and stays true during a
long job, when nobody would answer a ping.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import orjson

State = Literal["loading", "ready", "busy", "stuck", "broken", "leaving"]

IN_SERVICE: tuple[State, ...] = ("ready", "busy")
HEARTBEAT_SECONDS = 0.25
SILENT_AFTER_SECONDS = 10.0  # frozen, or inside a C call that never gives the interpreter back


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What one engine says of itself. Counters start at 0 with every start of the process."""

    state: State
    pid: int
    device: str
    boot: str
    starts: int = 1
    """How often an engine of this device has been started since the launcher began."""
    heartbeat_unix: float = 0.0
    started_unix: float = 0.0
    pass_age_seconds: float | None = None
    """How long the current forward pass has been running; None between passes."""
    model: str = ""
    revision: str = ""
    device_name: str = ""
    dtype: str = ""
    max_length_tokens: int = 0
    max_batch_pairs: int = 0
    max_batch_tokens: int = 0
    waiting_rows: dict[str, int] = field(default_factory=dict[str, int])
    """Rows that no batch has taken yet, by lane."""
    jobs: dict[str, int] = field(default_factory=dict[str, int])
    """Jobs that asked for scores, by lane."""
    pairs: int = 0
    tokens: int = 0
    batches: int = 0
    busy_seconds: float = 0.0
    pairs_per_second: float = 0.0
    """Of the last minute or so, counting only the time in which the device was at work."""
    out_of_memory: int = 0
    refused_jobs: int = 0


def write(file: Path, status: EngineStatus) -> None:
    """Replace the status file in one step: a reader sees the old one or the new one."""
    fresh = file.with_suffix(".json.new")
    fresh.write_bytes(orjson.dumps(asdict(status)))
    fresh.replace(file)


def read(file: Path) -> EngineStatus | None:
    """The engine's last words, or None where there are none that can be read."""
    try:
        return EngineStatus(**orjson.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def judged(status: EngineStatus, now_unix: float | None = None) -> EngineStatus:
    """The status with the state that holds now: dead is broken and silent is stuck, whatever the file says."""
    now_unix = time.time() if now_unix is None else now_unix
    if not is_alive(status.pid):
        return replace(status, state="stuck" if status.state == "stuck" else "broken")
    if status.state == "loading":  # libraries are loaded in long breaths; the engine limits this time itself
        return status
    if now_unix - status.heartbeat_unix > SILENT_AFTER_SECONDS:
        return replace(status, state="stuck")
    return status


def status_file(socket_path: Path) -> Path:
    """The status file beside an engine's socket."""
    return socket_path.with_suffix(".json")


def engines(runtime_dir: Path) -> list[EngineStatus]:
    """Every engine that has reported in this directory, judged, by device."""
    read_statuses = (read(file) for file in sorted(runtime_dir.glob("*.json")))
    return [judged(status) for status in read_statuses if status is not None]


def is_healthy(statuses: Iterable[EngineStatus]) -> bool:
    """Whether there is an engine and every one is in service."""
    states = [status.state for status in statuses]
    return bool(states) and all(state in IN_SERVICE for state in states)


def is_alive(pid: int) -> bool:
    """Whether there is a process of this id, ours or not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's process, but there
        return True
    return True


NOBODY = EngineStatus(state="loading", pid=0, device="", boot="")
"""Stands for an engine that has not reported yet."""
