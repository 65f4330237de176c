"""`quantize`: a copy of a model whose int8 is calibrated on pairs of the user's own; the weights stay as they are."""

import gzip
import json
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerankq_worker.model import hub
from rerankq_worker.model.errors import ModelNotFound
from rerankq_worker.model.files import CALIBRATION, choose_engine, find_model
from rerankq_worker.model_commands.targets import in_the_making, refuse_used
from rerankq_worker.settings import WorkerSettings

if TYPE_CHECKING:
    from rerankq_worker.engine.calibrating import Cost

PAIRS = 400
"""Of a file, at most: the ranges hardly move any more, and each pair costs a pass in fp32."""
LEAST_PAIRS = 20
HELD_BACK = 4  # every fourth pair is not calibrated on: it tells what int8 costs
GZIP = b"\x1f\x8b"


def quantize(settings: WorkerSettings, pairs_file: Path, target: Path) -> int:
    """Write the directory and say what int8 costs with it, and without.

    Raises:
        ModelError, EngineError: nothing was written; one line, with the way out.
    """
    refuse_used(target)
    pairs = _pairs_of(pairs_file)
    held_back = pairs[::HELD_BACK]
    used = [pair for number, pair in enumerate(pairs) if number % HELD_BACK]
    files = find_model(settings.model, settings.model_revision, settings.offline)
    if choose_engine(files.path, settings.engine) != "packed":
        raise ModelNotFound(
            f"{files.name} has no int8: sentence-transformers computes it, in fp32 or half precision; serve it as it is"
        )
    from rerankq_worker.engine.calibrating import calibrate  # torch takes seconds

    told = {"model": files.name, "revision": files.revision, "date": time.strftime("%Y-%m-%d")}
    told["file"] = pairs_file.name.encode(errors="replace").decode()
    print(f"calibrating on {len(used)} pairs; a large model takes minutes", file=sys.stderr, flush=True)
    with in_the_making(target, files.path) as ours:
        hub.copy_pulled(files.path, ours, but=[CALIBRATION])
        costs = calibrate(ours, used, held_back, settings.max_length_tokens, settings.threads, told)
    print(
        f"{target} is calibrated on {len(used)} pairs; serve it with RERANKQ_MODEL={target} RERANKQ_DTYPE=int8"
    )
    _tell(costs, len(held_back))
    return 0


def _tell(costs: "Mapping[str, Cost]", pairs: int) -> None:
    print(f"beside fp32, on {pairs} pairs held back:")
    for name, cost in costs.items():
        print(
            f"  {name:14} logits move {cost.mean:.4f} on average, {cost.largest:.4f} at most; "
            f"{cost.speed:.1f} times as fast"
        )


def _pairs_of(file: Path) -> list[tuple[str, str]]:
    """Of as many of its jobs as there are, each giving a document in turn, until there are enough; each pair once."""
    try:
        jobs = [_job(line, file, number) for number, line in _lines(file)]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ModelNotFound(
            f"{file} cannot be read ({_one_line(error)}); give --pairs a file of JSON lines"
        ) from error
    longest = max((len(documents) for _, documents in jobs), default=0)
    turns = (
        (query, documents[turn])
        for turn in range(longest)
        for query, documents in jobs
        if turn < len(documents)
    )
    pairs = list(dict.fromkeys(turns))
    if len(pairs) < LEAST_PAIRS:
        raise ModelNotFound(
            f"expected --pairs to hold {LEAST_PAIRS} different pairs or more, a few hundred are good; {file} has "
            f"{len(pairs)}"
        )
    return pairs[:PAIRS]


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with file.open("rb") as raw:  # once: it may be a pipe
        packed = raw.peek(len(GZIP)).startswith(GZIP)
        lines = TextIOWrapper(gzip.GzipFile(fileobj=raw) if packed else raw, encoding="utf-8-sig")
        for number, line in enumerate(lines, start=1):
            if number > PAIRS:
                return
            if line.strip():
                yield number, line


def _job(line: str, file: Path, number: int) -> tuple[str, list[str]]:
    query, texts, well_formed = "", list[str](), False
    try:
        said: Any = json.loads(line)
        query, documents = said["query"], said["documents"]
        texts = [one if isinstance(one, str) else one["text"] for one in documents]
        "".join([query, *texts]).encode()  # as no number is, nor a lone surrogate
        well_formed = isinstance(documents, list)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass  # said below
    if not well_formed:
        raise ModelNotFound(
            f'{file}, line {number}: expected {{"query": "…", "documents": ["…", …]}} on each line, texts or '
            'objects with a "text"'
        )
    return query, texts


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
