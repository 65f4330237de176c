"""How fast is the engine, against what people use today, on the same pairs in the same run?

    python -m benchmarks.bench_engine --models mini,true-shape --workloads lognormal,zh --rounds 5
    python -m benchmarks.bench_engine --models mini:bert,mini:modernbert    # of other families

Every round runs every contestant once (A B C A B C ...), so a busy machine slows all of them; what is reported is the
ratio to CrossEncoder's defaults within a round: median and range. The matrix-product peak of the machine is measured
in the same rounds, per precision, and MFU is each contestant's useful arithmetic over it. The last line is JSON.

On a machine that others are using too, `--threads 1 --clock cpu` counts the processor seconds of this process and its
children instead of the time that passed: being put aside costs nothing then.

FlagReranker, infinity and sentence-transformers' OpenVINO and ONNX backends are run by a Python of their own (they
want an older transformers), named by RERANKQ_BENCH_FLAG_PYTHON, RERANKQ_BENCH_INFINITY_PYTHON and
RERANKQ_BENCH_OPENVINO_PYTHON; left out where those are not set. OpenVINO's int8 is calibrated on the very pairs it is
timed on.
"""

import argparse
import gzip
import itertools
import json
import math
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoConfig

from benchmarks.contestants import (
    BASELINE,
    KINDS,
    STAND_IN,
    Contestant,
    Pair,
    Score,
    contestants,
    end_children,
)
from rerankq_worker.engine import Engine, PrecisionRefused
from rerankq_worker.engine.precision import bf16_pays
from rerankq_worker.model.files import find_model
from rerankq_worker.model.reading import Reading
from tests.model_dirs import CORPUS, SHAPES, TOKENIZERS, build_model_dir
from tests.st_dirs import BUILDERS, MINI

SHARED = Path(os.environ.get("RERANKQ_SHARED") or Path(__file__).parents[1].parent / "shared") / "data"
JOB_FILES = {
    "en": "hard_en_squad_bm25_top30",
    "zh": "hard_zh_cmrc_drcd_bm25_top30",
    "mixed": "xquad_mixed_zh_en_top50",
    "web": "noveleval_google_top20",
}
TOKENIZER_FILES = {"xlm-roberta": "tokenizer-xlmr", "bert": "models/bert", "modernbert": "models/modernbert"}
"""With their own tokenizers texts have their natural length; the tests' have words of the corpus only."""
LAYER = re.compile(r"\blayers?\.\d+\.")
SYNTHETIC = {"10x128": (10, 128), "50x256": (50, 256), "100x512": (100, 512)}
PEAK_SIZES = {"cpu": 2048, "cuda": 8192}
"""Of a square product that keeps the device busy: a large card is not, at 2048."""
VOCABULARIES = {"xlm-roberta": 250_002, "bert": 30_522, "modernbert": 50_368}
"""Rows of a true shape's table of words: much of its memory, and more than a tokenizer of the tests has."""
SEED = 20261122


@dataclass(frozen=True, slots=True)
class Workload:
    name: str
    pairs: list[Pair]
    max_length_tokens: int
    tokens: int
    """Of all rows together, nothing padded."""
    flops: float


# --- workloads -----------------------------------------------------------------------------------------------------


def workload(name: str, jobs: int, documents: int, model: Path) -> Workload:
    if name in SYNTHETIC:
        count, length = SYNTHETIC[name]
        filler = " ".join(CORPUS[:2])
        pairs = [(CORPUS[2][:40], f"{n} {filler * 20}") for n in range(min(count, jobs * documents))]
    else:
        length = 1024
        pairs = list(
            lognormal_pairs(jobs, documents) if name == "lognormal" else job_pairs(name, jobs, documents)
        )
    engine = Engine.load(model, device="cpu", max_length_tokens=length)
    lengths = [
        len(engine.read(Reading(query=query, documents=[document]))[0].token_ids) for query, document in pairs
    ]
    return Workload(name, pairs, length, sum(lengths), flops(model, lengths))


def job_pairs(name: str, jobs: int, documents: int) -> Iterator[Pair]:
    with gzip.open(SHARED / "jobs" / f"{JOB_FILES[name]}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in itertools.islice(lines, jobs):
            job = json.loads(line)
            yield from ((job["query"], document["text"]) for document in job["documents"][:documents])


def lognormal_pairs(jobs: int, documents: int) -> Iterator[Pair]:
    """English and Chinese documents, lengths lognormal: median about 90 tokens, a long tail."""
    random = np.random.default_rng(SEED)
    for job in range(jobs):
        for _ in range(documents):
            tokens = int(np.clip(random.lognormal(np.log(90), 0.8), 8, 1000))
            english = random.random() < 0.5
            text = (CORPUS[0] + " " if english else CORPUS[3]) * 200
            yield (CORPUS[job % 5][:30], text[: int(tokens * (4.2 if english else 1.4))])


def flops(model: Path, lengths: Sequence[int]) -> float:
    """Multiply-adds times two of a forward pass over rows of these lengths; embeddings and head are left out."""
    config: Any = AutoConfig.from_pretrained(model)
    windows = {"sliding_attention": getattr(config, "local_attention", 0)}
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    reach = [min(n, windows.get(kind) or n) for kind in kinds for n in lengths]
    attention = sum(
        4 * config.hidden_size * n * far for n, far in zip([*lengths] * len(kinds), reach, strict=True)
    )
    return float(2 * weights_of_layers(model) * sum(lengths) + attention)


def weights_of_layers(model: Path) -> int:
    """Of all that every token is multiplied with."""
    with safe_open(model / "model.safetensors", "np") as tensors:
        shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - no mapping
    return sum(math.prod(shape) for name, shape in shapes.items() if LAYER.search(name) and len(shape) == 2)


# --- measuring -----------------------------------------------------------------------------------------------------


def peak_flops(dtype: str, device: str, clock: Callable[[], float]) -> float:
    """Of one large square product in this precision: what MFU is a share of.

    int8 is measured in fp32, and so is bf16 on a CPU where its products are slower: the engine takes fp32's there.
    """
    if dtype == "bf16" and device == "cpu" and not bf16_pays():
        dtype = "fp32"
    size, repeats = PEAK_SIZES[torch.device(device).type], 3 if device == "cpu" else 20
    a = torch.randn(size, size, dtype=KINDS.get(dtype, torch.float32), device=device)
    torch.mm(a, a)
    synchronize(device)  # or the first product and all that was begun before it would be timed, too
    started = clock()
    for _ in range(repeats):
        torch.mm(a, a)
    synchronize(device)
    return repeats * 2 * size**3 / (clock() - started)


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def device_bytes(device: str) -> int:
    """What torch holds there now."""
    return 0 if device == "cpu" else torch.cuda.memory_allocated(device)


def peak_bytes(device: str, step: Callable[[], object]) -> int:
    """The most that torch holds there while a step is done, whatever was before."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    step()
    return 0 if device == "cpu" else torch.cuda.max_memory_allocated(device)


def cpu_seconds() -> float:
    """Of this process and its living children."""
    import psutil  # here, since the wall's clock needs none: a GPU host may have torch and its companions only

    myself = psutil.Process()
    times = [process.cpu_times() for process in (myself, *myself.children(recursive=True))]
    return float(sum(spent.user + spent.system for spent in times))


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": cpu_seconds}


@dataclass(slots=True)
class Runner:
    """A contestant that is loaded, and what was measured of it."""

    name: str
    dtype: str
    score: Score
    held_bytes: int
    """Of the device, by its weights and what else stays."""
    logits: np.ndarray
    peak_bytes: int
    """Of the device, its weights included, without those of the others."""
    seconds: list[float] = field(default_factory=list)

    def times(self, pairs: Sequence[Pair], clock: Callable[[], float]) -> None:
        started = clock()
        self.score(pairs)
        self.seconds.append(clock() - started)


def entered(contestant: Contestant, model: Path, work: Workload, device: str) -> Runner | None:
    """Loaded and warmed up; None where this device does not compute in its precision."""
    before = device_bytes(device)
    logits: list[np.ndarray] = []
    try:
        score = contestant.make(model, device, work.max_length_tokens)
        held = device_bytes(device) - before
        peak = peak_bytes(device, lambda: logits.append(np.asarray(score(work.pairs)))) - before
        score(work.pairs)  # the engine records what is asked for again
    except (PrecisionRefused, torch.OutOfMemoryError) as refusal:
        print(f"{contestant.name}: left out, {refusal}")
        return None
    return Runner(contestant.name, contestant.dtype, score, held, logits[0], peak)


def race(
    model: Path, work: Workload, device: str, rounds: int, only: set[str], clock: Callable[[], float]
) -> list[dict[str, Any]]:
    asked = [c for c in contestants(device) if not only or c.name in {*only, BASELINE, STAND_IN}]
    runners = [runner for c in asked if (runner := entered(c, model, work, device))]
    peaks: dict[str, list[float]] = {runner.dtype: [] for runner in runners}
    for _ in range(rounds):
        for dtype, seen in peaks.items():
            seen.append(peak_flops(dtype, device, clock))
        for runner in runners:
            runner.times(work.pairs, clock)
    return [result_of(runner, runners[0], work, max(peaks[runner.dtype])) for runner in runners]


def result_of(mine: Runner, baseline: Runner, work: Workload, peak: float) -> dict[str, Any]:
    median = statistics.median(mine.seconds)
    return {
        "contestant": mine.name,
        "baseline": baseline.name,
        **ratios(baseline.seconds, mine.seconds),
        "seconds": round(median, 4),
        "pairs_per_second": round(len(work.pairs) / median, 1),
        "gflops": round(work.flops / median / 1e9, 1),
        "peak_gflops": round(peak / 1e9, 1),
        "mfu": round(work.flops / min(mine.seconds) / peak, 3),
        "largest_difference": round(float(np.abs(mine.logits - baseline.logits).max()), 5),
        "mean_difference": round(float(np.abs(mine.logits - baseline.logits).mean()), 5),
        "held_device_bytes": mine.held_bytes or None,  # of a CPU and of another process it is not seen
        "peak_device_bytes": mine.peak_bytes or None,
    }


def ratios(baseline: list[float], mine: list[float]) -> dict[str, float]:
    per_round = [b / m for b, m in zip(baseline, mine, strict=True)]
    return {
        "ratio": round(statistics.median(per_round), 2),
        "ratio_low": round(min(per_round), 2),
        "ratio_high": round(max(per_round), 2),
    }


def model_directory(name: str, cache: Path) -> Path:
    """The shapes of the tests are built once, with random weights: speed does not depend on their values."""
    shape, _, family = name.partition(":")
    if shape not in SHAPES:
        return find_model(name).path
    family = family or "xlm-roberta"
    if family not in (*TOKENIZERS, *BUILDERS):
        raise SystemExit(f"expected a family of {', '.join((*TOKENIZERS, *BUILDERS))}, got {family!r}")
    real = SHARED / TOKENIZER_FILES.get(family, "") / "tokenizer.json"
    directory = cache / name.replace(":", "-")
    if (directory / "model.safetensors").is_file():
        return directory
    if family in BUILDERS:
        return BUILDERS[family](directory, sizes=MINI)
    is_known = shape == "true-shape" and family in VOCABULARIES
    rows = {"vocab_size": VOCABULARIES[family]} if is_known else {}
    return build_model_dir(directory, shape, family, tokenizer_json=real if real.is_file() else None, **rows)


# --- the table -----------------------------------------------------------------------------------------------------


def main() -> None:
    """Run it; see --help."""
    asked = _asked()
    if asked.threads:
        torch.set_num_threads(asked.threads)
        os.environ["OMP_NUM_THREADS"] = str(asked.threads)  # for contestants in a process of their own
    torch.manual_seed(SEED)
    results: list[dict[str, Any]] = []
    for model_name, work_name in itertools.product(asked.models.split(","), asked.workloads.split(",")):
        results.append(_result(model_name, work_name, asked))
        print_table(results[-1])
    how = {"clock": asked.clock, "rounds": asked.rounds}
    print(json.dumps({**environment(asked.device), **how, "results": results}))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--models",
        default="mini",
        help="small, mini, true-shape, one of these of another family (mini:bert), a directory or a Hub id; commas",
    )
    parser.add_argument(
        "--workloads", default="lognormal", help=", ".join([*JOB_FILES, *SYNTHETIC, "lognormal"])
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--documents", type=int, default=32, help="of each job")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", help="contestants by name, commas; the baseline runs always")
    parser.add_argument("--threads", type=int, help="of the processor, for every contestant")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "rerankq-bench-models")
    return parser.parse_args()


def _result(model_name: str, work_name: str, asked: argparse.Namespace) -> dict[str, Any]:
    model = model_directory(model_name, asked.cache)
    work = workload(work_name, asked.jobs, asked.documents, model)
    only = set(filter(None, asked.only.split(",")))
    try:
        rows = race(model, work, asked.device, asked.rounds, only, CLOCKS[asked.clock])
    finally:
        end_children()
    told = {"model": model_name, "workload": work_name, "pairs": len(work.pairs), "tokens": work.tokens}
    return {**told, "rows": rows}


def print_table(result: dict[str, Any]) -> None:
    print(f"\n{result['model']}, {result['workload']}: {result['pairs']} pairs, {result['tokens']:,} tokens")
    print(
        f"{'contestant':28} {'x':>6} {'range':>14} {'pairs/s':>8} {'GFLOP/s':>8} {'MFU':>5} {'max diff':>9} {'mean':>8}"
    )
    for row in result["rows"]:
        spread = f"[{row['ratio_low']}-{row['ratio_high']}]"
        print(
            f"{row['contestant']:28} {row['ratio']:6} {spread:>14} {row['pairs_per_second']:8} "
            f"{row['gflops']:8} {row['mfu']:5.2f} {row['largest_difference']:9.5f} {row['mean_difference']:8.5f}"
        )


def environment(device: str) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.startswith("cuda") else None
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
    }


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


if __name__ == "__main__":
    main()
