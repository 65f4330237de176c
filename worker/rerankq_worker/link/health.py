"""How an engine and its Celery workers are, told by small files that they renew, and read without asking them.

A file is made once, at its full size, and written over in place: telling that one lives needs no room on a disk. Its
age is told by the clock that all processes of a host share and nobody can set.

Knows files and process ids: no torch, no Celery, no Redis. So a check costs milliseconds and stays true during a
long job, when nobody would answer a ping.
"""

import contextlib
import math
import os
import time
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import orjson

State = Literal["loading", "ready", "busy", "stuck", "broken", "leaving"]

_T = TypeVar("_T")

IN_SERVICE: tuple[State, ...] = ("ready", "busy")
HEARTBEAT_SECONDS = 0.25
FILE_BYTES = 4096
READ_ATTEMPTS = 5
READ_AGAIN_SECONDS = 0.002
BEAT_SUFFIX = ".beat"
BEAT_SECONDS = 1.0
# a call to a Redis that hangs may take 5 s, and more than four came in a row
BEAT_SILENT_AFTER_SECONDS = 40.0
CUT_OFF_AFTER_SECONDS = 12.0  # and a frozen worker is not ready from here on
SILENT_AFTER_SECONDS = 10.0  # frozen, or inside a C call that never gives the interpreter back
SPEED_MEMORY_SECONDS = 60.0  # device time after which an old pass counts a third


def _counter(counts: str, first: int = 0) -> Any:
    return field(default=first, metadata={"counts": counts})


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatus:
    """What one engine says of itself. A counter is one line here, and a metric by that; all but `starts` begin at 0."""

    state: State
    pid: int
    device: str
    boot: str
    starts: int = _counter("Starts of the engine process.", first=1)
    """Since the launcher began, of this device's."""
    heartbeat_monotonic: float = 0.0
    started_monotonic: float = 0.0
    pass_age_seconds: float | None = None
    """How long the current forward pass has been running; None between passes."""
    model: str = ""
    revision: str = ""
    device_name: str = ""
    dtype: str = ""
    max_length_tokens: int = 0
    max_batch_pairs: int = 0
    max_batch_tokens: int = 0
    engine: str = ""
    family: str = ""
    scale: str = ""
    waiting_rows: dict[str, int] = field(default_factory=dict[str, int])
    """Rows that no batch has taken yet, by lane."""
    jobs: dict[str, int] = field(default_factory=dict[str, int])
    """Jobs that asked for scores, by lane."""
    pairs: int = _counter("Query-document pairs scored.")
    tokens: int = _counter("Tokens of scored pairs.")
    batches: int = _counter("Forward passes.")
    busy_seconds: float = _counter("Time in forward passes.")
    out_of_memory: int = _counter("Batches that did not fit.")
    refused_jobs: int = _counter("Jobs that could not be scored even alone.")
    pairs_per_second: float = 0.0
    """Of the last minute or so, counting only the time in which the device was at work."""


COUNTERS = {counter.name: counter.metadata["counts"] for counter in fields(EngineStatus) if counter.metadata}
"""By the name of its field, what each counts."""


@dataclass(slots=True)
class Tally:
    """What the engine has done since it started."""

    counts: dict[str, float]
    _recent_pairs: float = 0.0
    _recent_seconds: float = 0.0

    def count(self, **more: float) -> None:
        """Add to counters, by their names."""
        for counter, added in more.items():
            self.counts[counter] += added

    def add_pass(self, pairs: int, tokens: int, seconds: float) -> None:
        """Count one forward pass."""
        self.count(batches=1, pairs=pairs, tokens=tokens, busy_seconds=seconds)
        fading = math.exp(-seconds / SPEED_MEMORY_SECONDS)
        self._recent_pairs = self._recent_pairs * fading + pairs
        self._recent_seconds = self._recent_seconds * fading + seconds

    @property
    def pairs_per_second(self) -> float:
        """Of late, while the device was at work."""
        return self._recent_pairs / self._recent_seconds if self._recent_seconds else 0.0


@dataclass(frozen=True, slots=True)
class Demand:
    """What the engine has been asked for."""

    waiting_rows: dict[str, int] = field(default_factory=dict[str, int])
    """Rows that no batch has taken yet, by lane."""
    jobs: dict[str, int] = field(default_factory=dict[str, int])
    """Jobs since the start, by lane."""


def write(file: Path, told: "EngineStatus | Beat") -> None:
    """Tell it in the file, in place.

    Raises:
        OSError: the file is not there and cannot be made.
    """
    text = orjson.dumps(asdict(told))
    block = b"%08x %s" % (zlib.crc32(text), text)
    if len(block) > FILE_BYTES:
        raise ValueError(f"expected a status of at most {FILE_BYTES} bytes, got {len(block)}. This is a bug.")
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, block.ljust(FILE_BYTES), 0)
    finally:
        os.close(descriptor)


def read_status(file: Path) -> EngineStatus | None:
    """The engine's last words, or None where there are none that can be read."""
    return _read(file, EngineStatus)


def _read(file: Path, kind: type[_T]) -> _T | None:
    for _ in range(READ_ATTEMPTS):
        try:
            checksum, _, text = file.read_bytes().rstrip().partition(b" ")
            if int(checksum, 16) == zlib.crc32(text):
                return kind(**orjson.loads(text))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            pass  # it is being written at this moment, or is none of ours
        time.sleep(READ_AGAIN_SECONDS)
    return None


def judged(status: EngineStatus, now_monotonic: float | None = None) -> EngineStatus:
    """The status with the state that holds now: dead is broken and silent is stuck, whatever the file says."""
    now_monotonic = time.monotonic() if now_monotonic is None else now_monotonic
    if not is_alive(status.pid):
        return replace(status, state="stuck" if status.state == "stuck" else "broken")
    if status.state == "loading":  # libraries are loaded in long breaths; the engine limits this time itself
        return status
    if now_monotonic - status.heartbeat_monotonic > SILENT_AFTER_SECONDS:
        return replace(status, state="stuck")
    return status


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a Celery worker's main process last told; made by the launcher before there is one."""

    pid: int
    node: str
    heartbeat_monotonic: float = 0.0
    redis_monotonic: float | None = None
    """When it last spoke to Redis; None: not yet."""

    @property
    def state(self) -> Literal["loading", "ready", "stuck", "broken", "cut off"]:
        """How it is now. `cut off`: at work, and without Redis."""
        now = time.monotonic()
        if self.pid == 0:
            return "loading"
        if not is_alive(self.pid):
            return "broken"
        if now - self.heartbeat_monotonic > BEAT_SILENT_AFTER_SECONDS:
            return "stuck"
        spoke = self.redis_monotonic
        return "cut off" if spoke is None or now - spoke > CUT_OFF_AFTER_SECONDS else "ready"


def beat_file(runtime_dir: Path, node: str) -> Path:
    """Where the Celery worker of this name tells that it lives."""
    return runtime_dir / f"{node.replace('/', '_')}{BEAT_SUFFIX}"


def read_beat(file: Path) -> Beat | None:
    """A Celery worker's last beat, or None where there is none that can be read."""
    return _read(file, Beat)


def beats(runtime_dir: Path) -> list[Beat]:
    """Every Celery worker that tells in this directory that it lives, by name."""
    found = (read_beat(file) for file in sorted(runtime_dir.glob(f"*{BEAT_SUFFIX}")))
    return [beat for beat in found if beat is not None]


def forget_killed(runtime_dir: Path, named: str, besides: Path) -> None:
    """Take away what killed workers have left whose names begin so, besides this file: another is in their place."""
    for file in runtime_dir.glob(f"*{BEAT_SUFFIX}"):
        beat = None if file == besides else read_beat(file)
        if beat is not None and beat.node.startswith(named) and beat.state == "broken":
            with contextlib.suppress(OSError):  # another user's
                file.unlink()


def status_file(socket_path: Path) -> Path:
    """The status file beside an engine's socket."""
    return socket_path.with_suffix(".json")


def engines(runtime_dir: Path) -> list[EngineStatus]:
    """Every engine that has reported in this directory, judged, by device."""
    read_statuses = (read_status(file) for file in sorted(runtime_dir.glob("*.json")))
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


NO_ENGINE = EngineStatus(state="loading", pid=0, device="", boot="")
"""Stands for an engine that has not reported yet."""
