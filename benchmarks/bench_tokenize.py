"""Reading texts as a worker does against the tokenizers library alone: processor time of a job, in turns.

    python -m benchmarks.bench_tokenize --documents 1,10,20,50
    python -m benchmarks.bench_tokenize --model small --model /path/to/model

Jobs of real paragraphs (`../shared/data/jobs`), each file in a process of its own, which knows no word before. Half
of its jobs are read first, whole and unmeasured; of the others the first documents. Rows must be equal, or the run
fails. The last line is JSON.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rerankq.contract.closed_pipes import ends_quietly
from rerankq_worker.model.files import find_model
from rerankq_worker.model.reading import Reading, Row
from rerankq_worker.model.tokenizer import PairTokenizer

SHARED = Path(os.environ.get("RERANKQ_SHARED") or Path(__file__).parents[2] / "shared") / "data"
XLMR = {"model_type": "xlm-roberta", "max_position_embeddings": 8194}


def main() -> None:
    """Run it; see --help."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    asked, files = _arguments(), sorted((SHARED / "jobs").glob("*.jsonl.gz"))
    if not files:
        raise SystemExit(
            f"expected job files in {SHARED / 'jobs'}, got none; RERANKQ_SHARED names another ../shared"
        )
    fields = []
    with tempfile.TemporaryDirectory() as folder:
        for model in asked.model or ["xlmr", "small"]:
            directory = _directory(model, Path(folder))
            for file in files:
                for documents in map(int, asked.documents.split(",")):
                    fields.append(_measured(model, directory, file, documents, asked.jobs))
                    print(_line(fields[-1]), flush=True)
    print(json.dumps(fields))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", action="append", help="small, xlmr (its tokenizer alone), a directory; repeat"
    )
    parser.add_argument("--documents", default="1,10,20", help="of each job, separated by commas")
    parser.add_argument("--jobs", type=int, default=250, help="of each file at most, half of them measured")
    return parser.parse_args()


def _directory(model: str, folder: Path) -> Path:
    if model != "xlmr":
        return find_model(model).path
    directory = folder / "xlmr"
    directory.mkdir()
    (directory / "tokenizer.json").symlink_to(SHARED.resolve() / "tokenizer-xlmr" / "tokenizer.json")
    (directory / "config.json").write_text(json.dumps(XLMR))
    return directory


def _measured(model: str, directory: Path, file: Path, documents: int, jobs: int) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as process:
        measured = process.apply(_contest, (directory, file, documents, jobs))
    return {"model": model, "file": file.name.removesuffix(".jsonl.gz"), "documents": documents, **measured}


def _contest(directory: Path, file: Path, documents: int, jobs: int) -> dict[str, Any]:
    ours, library = (PairTokenizer.from_model_dir(directory, 512) for _ in range(2))
    library._reader = None
    readings = list(_readings(file))[:jobs]
    times: dict[str, list[float]] = {"ours": [], "library": []}
    for number, reading in enumerate(readings):
        is_measured = number >= len(readings) // 2
        asked = replace(reading, documents=reading.documents[:documents]) if is_measured else reading
        rows, took = _timed(ours, asked)
        expected, library_took = _timed(library, asked)
        _refuse_difference(rows, expected)
        if is_measured:
            times["ours"].append(took)
            times["library"].append(library_took)
    ratios = [b / a for a, b in zip(times["ours"], times["library"], strict=True)]
    return {
        **{f"{name}_ms": statistics.median(each) * 1e3 for name, each in times.items()},
        "ratio": sum(times["library"]) / sum(times["ours"]),
        "ratio_p10_p90": [statistics.quantiles(ratios, n=10)[place] for place in (0, -1)],
    }


def _readings(file: Path) -> Iterator[Reading]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for job in map(json.loads, lines):
            yield Reading(query=job["query"], documents=[one["text"] for one in job["documents"]])


def _timed(tokenizer: PairTokenizer, reading: Reading) -> tuple[list[Row], float]:
    started = time.thread_time()
    rows = tokenizer.read(reading)
    return rows, time.thread_time() - started


def _refuse_difference(rows: Sequence[Row], expected: Sequence[Row]) -> None:
    if [row.token_ids.tolist() for row in rows] != [row.token_ids.tolist() for row in expected]:
        raise SystemExit("rows differ from the library's")


def _line(field: dict[str, Any]) -> str:
    low, high = field["ratio_p10_p90"]
    return (
        f"{field['model']:6} {field['file']:32} {field['documents']:3} documents: {field['library_ms']:7.2f} ms -> "
        f"{field['ours_ms']:6.2f} ms, {field['ratio']:5.1f}x ({low:.1f} to {high:.1f} of a job)"
    )


if __name__ == "__main__":
    with ends_quietly():
        main()
