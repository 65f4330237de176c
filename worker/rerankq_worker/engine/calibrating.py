"""Calibrate the int8 of a model directory on pairs, and measure what it costs on others."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rerankq_worker.engine.calibration import Recorder, layers, save
from rerankq_worker.engine.loading import load_forward
from rerankq_worker.engine.packed_model import PackedModel
from rerankq_worker.engine.planner import plan
from rerankq_worker.engine.precision import EXACT, choose_precision
from rerankq_worker.model.reading import Reading
from rerankq_worker.model.tokenizer import PairTokenizer
from rerankq_worker.scoring import TokenIds

CPU = torch.device("cpu")
MAX_PAIRS, MAX_TOKENS = 32, 1024
Logits = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Cost:
    """Of int8, beside fp32: by how much logits move, on average and at most, and how many times as fast it is."""

    mean: float
    largest: float
    speed: float


def calibrate(
    directory: Path,
    pairs: Sequence[tuple[str, str]],
    held_back: Sequence[tuple[str, str]],
    max_length_tokens: int,
    threads: int | None,
    told: Mapping[str, str],
) -> dict[str, Cost]:
    """Writes the directory's calibration; gives what int8 costs on the pairs held back, without it and with it.

    Args:
        told: what is to be said of it: model, revision, date, file.

    Raises:
        ModelError, EngineError
    """
    if threads is not None:
        torch.set_num_threads(threads)
    int8 = choose_precision("int8", CPU)
    tokenizer = PairTokenizer.from_model_dir(directory, max_length_tokens)
    rows, others = (
        [tokenizer.read(Reading(query=query, documents=[text]))[0].token_ids for query, text in some]
        for some in (pairs, held_back)
    )
    found, expected, fp32_seconds = _recorded(directory, rows, others)

    def cost() -> Cost:
        logits, seconds = _score(load_forward(directory, CPU, int8), others)
        moved = np.abs(logits - expected)
        return Cost(float(moved.mean()), float(moved.max()), fp32_seconds / seconds)

    as_it_is = cost()
    scaled, all_layers = layers(found)
    save(directory, found, {"pairs": str(len(rows)), "layers": f"{scaled} of {all_layers}", **told})
    return {"int8 as it is": as_it_is, "calibrated": cost()}


def _recorded(
    directory: Path, rows: Sequence[TokenIds], others: Sequence[TokenIds]
) -> tuple[dict[str, Tensor], Logits, float]:
    """What was found on the rows; of the others the logits in fp32, and the processor time that they took."""
    recorder = Recorder(batches=len(_batches(rows)))
    model = load_forward(directory, CPU, EXACT, recorder)
    _score(model, rows)
    recorder.records = False
    return recorder.found(), *_score(model, others)


def _score(model: PackedModel, rows: Sequence[TokenIds]) -> tuple[Logits, float]:
    """Logits in row order, and the processor time that they took."""
    logits = np.empty(len(rows), dtype=np.float32)
    started = time.process_time()
    for batch in _batches(rows):
        logits[batch] = model([rows[index] for index in batch]).numpy()
    return logits, time.process_time() - started


def _batches(rows: Sequence[TokenIds]) -> list[list[int]]:
    return plan([len(row) for row in rows], MAX_PAIRS, MAX_TOKENS)
