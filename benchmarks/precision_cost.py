"""What does a precision cost in quality? The job files scored in fp32 and in each other precision.

    python -m benchmarks.precision_cost --model small --jobs 40

For each: the share of fp32's nDCG@10 that is kept, and by how much logits moved (mean, largest). Last line: JSON.
"""

import argparse
import gzip
import itertools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rerankq.contract.closed_pipes import ends_quietly
from rerankq_worker.engine import Engine, PrecisionRefused, precision

SHARED = Path(os.environ.get("RERANKQ_SHARED") or Path(__file__).parents[1].parent / "shared") / "data"
CUTOFF = 10


@dataclass(frozen=True, slots=True)
class JudgedJob:
    query: str
    documents: list[str]
    grades: list[float]


def jobs_of(file: Path, count: int) -> Iterator[JudgedJob]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for job in map(json.loads, itertools.islice(lines, count)):
            documents = job["documents"]
            grades = [float(job["relevant"].get(document["id"], 0)) for document in documents]
            yield JudgedJob(job["query"], [document["text"] for document in documents], grades)


def ndcg(logits: np.ndarray[Any, Any], grades: list[float]) -> float:
    """nDCG@10 with gains of 2^grade - 1; ties keep the caller's order."""
    ranked = [grades[index] for index in np.argsort(-logits, kind="stable")]
    best = discounted(sorted(grades, reverse=True))
    return discounted(ranked) / best if best else 0.0


def discounted(grades: list[float]) -> float:
    return sum((2**grade - 1) / math.log2(rank + 2) for rank, grade in enumerate(grades[:CUTOFF]))


def measure(engine: Engine, jobs: list[JudgedJob]) -> tuple[float, np.ndarray[Any, Any]]:
    """Mean nDCG@10 and all logits."""
    logits = [engine.score_pairs([(job.query, document) for document in job.documents]) for job in jobs]
    quality = [ndcg(scored, job.grades) for scored, job in zip(logits, jobs, strict=True)]
    return float(np.mean(quality)), np.concatenate(logits)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="small")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--jobs", type=int, default=40, help="of each job file")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--bf16-products", action="store_true", help="even where this CPU is slower with them"
    )
    asked = parser.parse_args()

    if asked.bf16_products:
        precision.bf16_pays = lambda: True
    files = sorted((SHARED / "jobs").glob("*.jsonl.gz"))
    if not files:
        raise SystemExit(f"no job files under {SHARED / 'jobs'}; say where they are with RERANKQ_SHARED")
    jobs = [job for file in files for job in jobs_of(file, asked.jobs)]
    exact = Engine.load(asked.model, device=asked.device, dtype="fp32", threads=asked.threads)
    quality, logits = measure(exact, jobs)
    print(f"{len(jobs)} jobs, {len(logits)} pairs; fp32: nDCG@{CUTOFF} {quality:.4f}")
    print(f"{'dtype':6} {'nDCG@10':>8} {'kept':>8} {'mean diff':>10} {'largest':>8}")
    rows = list(costs(asked, jobs, quality, logits))
    print(json.dumps({"model": asked.model, "jobs": len(jobs), "fp32_ndcg": quality, "rows": rows}))


def costs(
    asked: argparse.Namespace, jobs: list[JudgedJob], quality: float, logits: np.ndarray[Any, Any]
) -> Iterator[dict[str, Any]]:
    for dtype in ("fp16", "bf16", "int8"):
        try:
            engine = Engine.load(asked.model, device=asked.device, dtype=dtype)
        except PrecisionRefused as error:
            print(f"{dtype:6} {error}")
            continue
        cheaper, moved = measure(engine, jobs)
        difference = np.abs(moved - logits)
        row = {
            "dtype": dtype,
            "ndcg": cheaper,
            "kept": cheaper / quality,
            "mean_difference": float(difference.mean()),
            "largest_difference": float(difference.max()),
        }
        print(
            f"{dtype:6} {cheaper:8.4f} {row['kept']:8.2%} {difference.mean():10.4f} {difference.max():8.4f}"
        )
        yield row


if __name__ == "__main__":
    with ends_quietly():
        main()
