"""`bench`: pairs a second of the engine that runs here, by their length, and the memory that serving takes.

The engine is asked as Celery workers ask it, at its socket. Each figure is a line of JSON as soon as it is known: who
reads has what there is when it is stopped. Knows no Redis.
"""

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rerankq_worker.host.devices import chosen_devices
from rerankq_worker.host.memory import memory_of
from rerankq_worker.link import health
from rerankq_worker.link.client import EngineClient
from rerankq_worker.model.files import find_model
from rerankq_worker.model.reading import Reading
from rerankq_worker.model.tokenizer import PairTokenizer
from rerankq_worker.scoring import EngineInfo, TokenIds
from rerankq_worker.settings import WorkerSettings

ASKERS = 2  # while one hears of its scores, the other's rows are on the device
BATCHES_AT_ONCE = 8
LEAST_ANSWERS = 2  # the first begins the time, the next ends it
ENGINE_AWAY_SECONDS = 10.0
PROC = Path("/proc")


def bench(settings: WorkerSettings, lengths: Sequence[int], seconds: float) -> int:
    """Measure for about so long, and print what comes of it.

    Args:
        lengths: tokens of a pair; those over the engine's own are left out, and that is measured in any case.
    """
    socket = settings.find_engine_socket()
    client = EngineClient(socket, ENGINE_AWAY_SECONDS)
    info = client.describe()
    _tell(engine=asdict(info))
    longest = _longest_row(settings, info, client)
    chosen = sorted({length for length in lengths if length < len(longest)} | {len(longest)})
    for length in chosen:
        rows = [np.append(longest[: length - 1], longest[-1:])] * (BATCHES_AT_ONCE * info.max_batch_pairs)
        _tell(length=length, **_rate(client, health.status_file(socket), rows, seconds / len(chosen)))
    _tell(memory=_memory(settings, health.read_status(health.status_file(socket))))
    return 0


def _tell(**told: Any) -> None:
    print(json.dumps(told), flush=True)


def _longest_row(settings: WorkerSettings, info: EngineInfo, client: EngineClient) -> TokenIds:
    """Of as many tokens as the engine reads."""
    found = find_model(settings.model, settings.model_revision, settings.offline)
    reader = (
        PairTokenizer.from_model_dir(found.path, info.max_length_tokens)
        if info.engine == "packed"
        else client
    )
    text = "the device is measured with words like these " * info.max_length_tokens
    return reader.read(Reading(query="how fast is it", documents=[text]))[0].token_ids


def _rate(
    client: EngineClient, status_file: Path, rows: Sequence[TokenIds], seconds: float
) -> dict[str, Any]:
    """Pairs a second, and the share of its time that the device was at work."""
    over_at = time.monotonic() + seconds
    before = health.read_status(status_file)
    with ThreadPoolExecutor(ASKERS) as askers:
        asked = [askers.submit(lambda: list(_answers(client, rows, over_at))) for _ in range(ASKERS)]
        answers = sorted(answer for each in asked for answer in each.result())
    after = health.read_status(status_file)
    took = answers[-1][0] - answers[0][0]
    pairs = sum(pairs for _, pairs in answers[1:])
    return {"pairs_per_second": pairs / took if took else None, "pairs": pairs, **_busy(before, after)}


def _answers(client: EngineClient, rows: Sequence[TokenIds], over_at: float) -> Iterator[tuple[float, int]]:
    """When how many pairs were scored; of a slow engine later than `over_at`, but some."""
    told = 0
    while True:
        with closing(client.scores(rows, job_id="bench", lane="bulk")) as scores:
            for scored in scores:
                if len(scored.indices):
                    told += 1
                    yield time.monotonic(), len(scored.indices)
                if time.monotonic() >= over_at and told >= LEAST_ANSWERS:
                    return


def _busy(before: health.EngineStatus | None, after: health.EngineStatus | None) -> dict[str, Any]:
    """By the engine's own words, which are up to a quarter of a second old."""
    if before is None or after is None:
        return {"busy": None}
    passed = after.heartbeat_monotonic - before.heartbeat_monotonic
    busy = (after.busy_seconds - before.busy_seconds) / passed if passed > 0 else None
    return {"busy": busy and min(busy, 1.0)}


def _memory(settings: WorkerSettings, engine: health.EngineStatus | None) -> dict[str, int | None]:
    """In bytes: of the engine's process at its highest, of the others of its launcher, of the device."""
    device = memory_of(chosen_devices(settings.devices)[0])
    others = [beat.pid for beat in health.beats(settings.runtime_path) if beat.pid]
    return {
        "engine_bytes": engine and _kilobytes(engine.pid, "status", "VmHWM"),
        "workers_bytes": sum(_kilobytes(pid, "smaps_rollup", "Pss") or 0 for pid in _families(others)),
        "device_total_bytes": device and device.total,
        "device_used_bytes": device and device.total - device.free,
    }


def _families(parents: Sequence[int]) -> list[int]:
    """These processes and their children."""
    children = [
        int(child)
        for pid in parents
        for file in (PROC / str(pid) / "task").glob("*/children")
        for child in _read(file).split()
    ]
    return [*parents, *children]


def _kilobytes(pid: int, file: str, name: str) -> int | None:
    """A line of what Linux tells of a process, in bytes; None where it tells nothing."""
    lines = _read(PROC / str(pid) / file).splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # it has ended, or this is no Linux
        return ""
