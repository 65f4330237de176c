"""The shared job files through a real model, unbroken and with everything killed once, and the two outputs compared.

    python -m benchmarks.drill_bulk --model small --rows 8

For each file: an unbroken run, then one in which the client is killed and started again, and then a Celery worker, the
engine and Redis. The outputs must have the same rows in the same order, and the same scores but for their last bits
(other neighbours shared a batch). Prints quality before and after; the last line is JSON.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from rerankq.contract.closed_pipes import ends_quietly
from tests.service import Service

SHARED = Path(os.environ.get("RERANKQ_SHARED", Path(__file__).parents[2] / "shared"))
PACK_PAIRS = "40"  # small packs, so that a short file has enough of them to be killed between
SAME_SCORE = 1e-3  # logits; bit differences of a batch are far below
Process = subprocess.Popen


def main() -> None:
    """Drill every job file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="small")
    parser.add_argument("--rows", type=int, help="of each file; all when absent")
    arguments = parser.parse_args()
    limits = {"bulk_soft_limit_seconds": 600, "bulk_hard_limit_seconds": 630}
    with (
        tempfile.TemporaryDirectory(prefix="rerankq-drill-") as directory,
        Service(model=arguments.model, appendonly=True, threads=2, bulk_workers=2, **limits) as service,
    ):
        files = sorted((SHARED / "data" / "jobs").glob("*.jsonl.gz"))
        found = [drill(service, file, Path(directory), arguments.rows) for file in files]
    print(json.dumps({"benchmark": "bulk drill", "model": arguments.model, "files": found}))


def drill(service: Service, file: Path, directory: Path, rows: int | None) -> dict[str, Any]:
    """Both runs of one file."""
    name = file.name.removesuffix(".jsonl.gz")
    given, whole, broken = (directory / f"{name}.{part}.jsonl" for part in ("in", "whole", "broken"))
    with gzip.open(file) as source, given.open("wb") as target:
        target.writelines(islice(source, rows))
    summary = directory / f"{name}.json"
    assert start(service, given, whole, "--summary-json", str(summary)).wait() == 0, "the unbroken run failed"
    killed = run_with_kills(service, given, broken)
    told = json.loads(summary.read_text())
    found = {
        "file": name,
        "rows": told["rows"],
        "quality": told["quality"],
        "killed": killed,
        **compare(whole, broken),
    }
    print(json.dumps(found), flush=True)
    return found


def run_with_kills(service: Service, given: Path, out: Path) -> list[str]:
    """What was killed before the run was through."""
    killed: list[str] = []
    process = start(service, given, out)
    if has_grown(out, process):
        process.kill()
        killed.append("client")
    process.wait()
    process = start(service, given, out)
    kills: dict[str, Callable[[], None]] = {
        "worker": lambda: service.kill(service.celery_worker("bulk")),
        "engine": lambda: service.kill(service.engine()),
        "redis": lambda: restart(service),
    }
    for name, kill in kills.items():
        if has_grown(out, process):
            kill()
            killed.append(name)
    assert process.wait() == 0, "the resumed run failed"
    service.wait_until(service.is_ready, 120)
    return killed


def compare(whole: Path, broken: Path) -> dict[str, Any]:
    """How far two outputs are the same."""
    left, right = ([json.loads(line) for line in path.open()] for path in (whole, broken))
    assert [row["id"] for row in left] == [row["id"] for row in right], "the rows differ"
    difference = max(distance(a, b) for a, b in zip(left, right, strict=True))
    assert difference < SAME_SCORE, f"scores differ by {difference}"
    return {"bytes equal": whole.read_bytes() == broken.read_bytes(), "largest logit difference": difference}


def distance(left: dict[str, Any], right: dict[str, Any]) -> float:
    """Of the logits of one row."""
    logits = {result["index"]: result["logit"] for result in left["results"]}
    return max(abs(logits[result["index"]] - result["logit"]) for result in right["results"])


def start(service: Service, given: Path, out: Path, *more: str) -> "Process[bytes]":
    """The command, in the service's environment."""
    words = [
        sys.executable,
        "-m",
        "rerankq.cli",
        "bulk",
        str(given),
        str(out),
        "--pack-pairs",
        PACK_PAIRS,
        *more,
    ]
    environment = {**service.environment, "RERANKQ_REDIS_TIMEOUT_SECONDS": "5"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)


def has_grown(out: Path, process: "Process[bytes]") -> bool:
    """Wait for more output; False when the run ended before."""
    before = out.stat().st_size if out.exists() else 0
    while process.poll() is None:
        if out.exists() and out.stat().st_size > before:
            return True
        time.sleep(0.02)
    return False


def restart(service: Service) -> None:
    """Redis, by a power cut."""
    service.redis.kill()
    service.redis.start()


if __name__ == "__main__":
    with ends_quietly():
        main()
