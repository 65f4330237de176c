"""How much memory does an engine hold on the CPU, by precision, and does it stay flat?

    python -m benchmarks.engine_memory --model true-shape --dtypes fp32,fp16,int8
    python -m benchmarks.engine_memory --model tiny --dtypes fp32 --batches 10000

The resident set of a process with nothing but the engine: after its warm-up, and after so many batches of random
lengths. Each precision in a process of its own. Last line: JSON.
"""

import argparse
import json
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np
import psutil

from benchmarks.bench_engine import model_directory
from rerankq.contract.closed_pipes import ends_quietly
from rerankq_worker.engine import Engine
from tests.engine.definition import random_rows

SETTLED_AFTER_BATCHES = 200
MAX_ROWS = 8
MAX_ROW_TOKENS = 128


def measure(directory: Path, dtype: str, batches: int) -> dict[str, int]:
    """MiB by moment."""
    engine = Engine.load(directory, device="cpu", dtype=dtype)
    engine.warm_up()
    found = {"warm": resident_mib()}
    random = np.random.default_rng(0)
    for number in range(1, batches + 1):
        engine.score(
            random_rows(random.integers(1, MAX_ROW_TOKENS, size=random.integers(1, MAX_ROWS)).tolist())
        )
        if number in (SETTLED_AFTER_BATCHES, batches):
            found[f"after {number} batches"] = resident_mib()
    return found


def resident_mib() -> int:
    return int(psutil.Process().memory_info().rss) // 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="true-shape", help="small, tiny, mini, true-shape, a directory")
    parser.add_argument("--dtypes", default="fp32,fp16,bf16,int8", help="commas")
    parser.add_argument("--batches", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "rerankq-bench-models")
    asked = parser.parse_args()
    directory = model_directory(asked.model, asked.cache)
    results: dict[str, dict[str, int]] = {}
    for dtype in asked.dtypes.split(","):
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            results[dtype] = alone.apply(measure, (directory, dtype, asked.batches))
        print(f"{dtype:6} " + ", ".join(f"{moment}: {mib:,} MiB" for moment, mib in results[dtype].items()))
    print(json.dumps(results))


if __name__ == "__main__":
    with ends_quietly():
        main()
