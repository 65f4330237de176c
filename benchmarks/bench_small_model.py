"""How well the small model ranks, beside the simple rankings it must not lose to.

    python benchmarks/bench_small_model.py [--data ../shared/data] [--ordinary 100]

Sets: every job of the four job files, and ordinary held-out questions: a fixed draw of questions whose paragraph
is one of those that training/questions.py keeps for the report (every tenth of the training folder) and is gold
in no job file. Nothing is trained on questions to these paragraphs and no checkpoint is chosen by them. Prints
one table per measure for people and, as its last line, one JSON document.
"""

import argparse
import gzip
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import XLMRobertaForSequenceClassification

from rerankq.contract.closed_pipes import ends_quietly
from rerankq_worker.model.small import materialise

CUTOFF = 10  # MRR@10, nDCG@10
WINDOW_TOKENS = 40
BATCH_TOKENS = 4096
SEED = 1
HELD_OUT_EVERY = 10  # paragraphs: the part that training/questions.py reports on

PIECE_IDF = Path(__file__).parents[1] / "training" / "piece_idf.bin"

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class JudgedJob:
    """One question, its documents in the order they were found, and their grades."""

    query: str
    documents: list[str]
    grades: list[int]


Ranker = Callable[[JudgedJob], Sequence[float]]


def main() -> None:
    """Rank every job by every ranking and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--ordinary", type=int, default=100, help="ordinary questions per corpus")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    sets = dict(job_sets(arguments.data)) | dict(ordinary_sets(arguments.data, arguments.ordinary))
    rankers = all_rankers(materialise(), getattr(torch, arguments.dtype))
    results: dict[str, dict[str, dict[str, tuple[float, float]]]] = {}
    for name, jobs in sets.items():
        results[name] = {ranker: measure(jobs, rank) for ranker, rank in rankers.items()}
        sys.stderr.write(f"{name}: {json.dumps(results[name])}\n")
    for measure_name in ("mrr", "ndcg"):
        print_table(measure_name, results, {name: len(jobs) for name, jobs in sets.items()})
    sys.stdout.write(json.dumps(results) + "\n")


# --- the jobs -----------------------------------------------------------------------------------------------


def job_sets(data: Path) -> Iterator[tuple[str, list[JudgedJob]]]:
    """The job files; the mixed one in two: same language, and an answer in the other language."""
    for path in sorted((data / "jobs").glob("*.jsonl.gz")):
        lines = list(read_lines(path))
        name = path.name.split("_bm25")[0].split("_google")[0].split("_top")[0]
        if "query_lang" not in lines[0]:
            yield name, [as_job(line) for line in lines]
            continue
        same = [line for line in lines if any(gold.endswith(line["query_lang"]) for gold in line["relevant"])]
        yield "xquad_same_language", [as_job(line) for line in same]
        yield "xquad_other_language", [as_job(line) for line in lines if line not in same]


def as_job(line: dict) -> JudgedJob:
    """A job of a job file's line."""
    documents = line["documents"]
    grades = [line["relevant"].get(document["id"], 0) for document in documents]
    return JudgedJob(line["query"], [document["text"] for document in documents], grades)


def ordinary_sets(data: Path, count: int) -> Iterator[tuple[str, list[JudgedJob]]]:
    """Per corpus a fixed draw of questions whose paragraph is held out, no job's answer and among the 30 found."""
    gold = set(gold_texts(data))
    for path in sorted((data / "train").glob("*.questions.jsonl.gz")):
        name = path.name.split(".")[0]
        passages = {p["id"]: p["text"] for p in read_lines(path.with_name(f"{name}.passages.jsonl.gz"))}
        held_out = {i for i in list(passages)[::HELD_OUT_EVERY] if passages[i] not in gold}
        questions = [q for q in read_lines(path) if q["gold"] in held_out]
        found = [q for q in questions if q["gold_rank"] <= 30 and q["gold"] in q["bm25"]]
        random.Random(SEED).shuffle(found)
        yield (
            f"ordinary_{name.split('_')[0]}",
            [
                JudgedJob(
                    q["query"], [passages[i] for i in q["bm25"]], [int(i == q["gold"]) for i in q["bm25"]]
                )
                for q in found[:count]
            ],
        )


def gold_texts(data: Path) -> Iterator[str]:
    """The text of every paragraph that a job file marks as relevant."""
    for path in sorted((data / "jobs").glob("*.jsonl.gz")):
        for line in read_lines(path):
            yield from (d["text"] for d in line["documents"] if line["relevant"].get(d["id"], 0) > 0)


def read_lines(path: Path) -> Iterator[dict]:
    """The JSON objects of a gzipped JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


# --- the rankings -------------------------------------------------------------------------------------------


def all_rankers(model_dir: Path, dtype: torch.dtype) -> dict[str, Ranker]:
    """Every ranking in the order of the table's columns."""
    overlap = Overlap(model_dir)
    return {
        "given order": lambda job: [-float(rank) for rank in range(len(job.documents))],
        "random": lambda job: list(np.random.default_rng(len(job.query)).random(len(job.documents))),
        "overlap": overlap.whole,
        "best window": overlap.best_window,
        "small": Small(model_dir, dtype),
    }


class Overlap:
    """Share of the query's pieces that a document holds, by the small model's own pieces and weights."""

    def __init__(self, model_dir: Path) -> None:
        """Load the tokenizer and the weights of its pieces."""
        self.tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self.piece_weights = np.frombuffer(PIECE_IDF.read_bytes(), dtype=np.uint8) / 255

    def whole(self, job: JudgedJob) -> list[float]:
        """The share in the whole document."""
        query, documents, weights = self._read(job)
        return [float(weights @ np.isin(query, document)) for document in documents]

    def best_window(self, job: JudgedJob) -> list[float]:
        """The largest share in any window of 40 pieces."""
        query, documents, weights = self._read(job)
        return [best_window(query, document, weights) for document in documents]

    def _read(self, job: JudgedJob) -> tuple[Tokens, list[Tokens], npt.NDArray[np.float64]]:
        query, *documents = (
            np.array(encoding.ids, dtype=np.int32)
            for encoding in self.tokenizer.encode_batch([job.query, *job.documents], add_special_tokens=False)
        )
        query = np.unique(query)
        return query, documents, self.piece_weights[query]


def best_window(query: Tokens, document: Tokens, weights: npt.NDArray[np.float64]) -> float:
    """The largest weight of distinct query pieces in any window of the document."""
    here = query[:, None] == document[None, :]
    before = np.concatenate([np.zeros((len(query), 1), dtype=int), here.cumsum(axis=1)], axis=1)
    starts = np.arange(max(1, len(document) - WINDOW_TOKENS + 1))
    ends = np.minimum(starts + WINDOW_TOKENS, len(document))
    return float((weights @ (before[:, ends] > before[:, starts])).max(initial=0.0))


class Small:
    """The small model in plain transformers, rows sorted by length."""

    def __init__(self, model_dir: Path, dtype: torch.dtype) -> None:
        """Load the model."""
        self.tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        self.tokenizer.enable_truncation(1024, strategy="only_second")
        self.model = XLMRobertaForSequenceClassification.from_pretrained(model_dir, dtype=dtype).eval()

    def __call__(self, job: JudgedJob) -> list[float]:
        """One logit per document."""
        rows = self.tokenizer.encode_batch([(job.query, document) for document in job.documents])
        order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
        logits = [0.0] * len(rows)
        while order:
            batch = order[: max(1, BATCH_TOKENS // len(rows[order[min(len(order), 16) - 1]].ids))]
            order = order[len(batch) :]
            for index, logit in zip(batch, self._score([rows[index].ids for index in batch]), strict=True):
                logits[index] = logit
        return logits

    def _score(self, rows: list[list[int]]) -> list[float]:
        longest = max(map(len, rows))
        ids = torch.tensor([row + [1] * (longest - len(row)) for row in rows])
        with torch.inference_mode():
            return self.model(ids, (ids != 1).long()).logits[:, 0].float().tolist()


# --- the measures -------------------------------------------------------------------------------------------


def measure(jobs: list[JudgedJob], rank: Ranker) -> dict[str, tuple[float, float]]:
    """Mean and standard error of MRR@10 and nDCG@10."""
    ranked = [sorted_grades(job, rank(job)) for job in jobs]
    return {
        "mrr": mean_and_error([reciprocal_rank(grades) for grades in ranked]),
        "ndcg": mean_and_error([ndcg(grades) for grades in ranked]),
    }


def sorted_grades(job: JudgedJob, scores: Sequence[float]) -> list[int]:
    """The grades, best score first, ties in the given order."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return [job.grades[index] for index in order]


def reciprocal_rank(grades: list[int]) -> float:
    """1 / rank of the first relevant document among the first ten, else 0."""
    return next((1 / (rank + 1) for rank, grade in enumerate(grades[:CUTOFF]) if grade > 0), 0.0)


def ndcg(grades: list[int]) -> float:
    """nDCG@10 with exponential gain."""
    best = gain(sorted(grades, reverse=True))
    return gain(grades) / best if best else 0.0


def gain(grades: list[int]) -> float:
    """Discounted gain of the first ten grades."""
    return sum((2**grade - 1) / math.log2(rank + 2) for rank, grade in enumerate(grades[:CUTOFF]))


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def print_table(measure_name: str, results: dict[str, dict[str, dict]], sizes: dict[str, int]) -> None:
    """One Markdown table: sets down, rankings across."""
    rankers = list(next(iter(results.values())))
    sys.stdout.write(f"\n| {measure_name}@{CUTOFF} | jobs | " + " | ".join(rankers) + " |\n")
    sys.stdout.write("|---|---|" + "---|" * len(rankers) + "\n")
    for name, row in results.items():
        cells = (
            f"{row[ranker][measure_name][0]:.3f} ± {row[ranker][measure_name][1]:.3f}" for ranker in rankers
        )
        sys.stdout.write(f"| {name} | {sizes[name]} | " + " | ".join(cells) + " |\n")


if __name__ == "__main__":
    with ends_quietly():
        main()
