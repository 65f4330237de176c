"""Is the engine exact? Its scores in fp32 beside transformers' own, over texts and over rows of 1 to 8,192 tokens.

    python -m benchmarks.exactness --models small,mini,true-shape

transformers scores one row at a time, without padding: the definition. Exits with 1 where a logit is further off than
1e-4. On the true shape 8,192 tokens take minutes. Last line: JSON.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from benchmarks.bench_engine import model_directory
from rerankq.contract.closed_pipes import ends_quietly
from rerankq_worker.engine import Engine
from rerankq_worker.model.reading import Reading
from tests.engine.definition import PAIRS, Rows, plain_model, random_rows

TOLERANCE = 1e-4  # logits
LENGTHS = (1, 2, 3, 17, 128, 511, 512, 1024, 4096, 8192)
MIXED = (90, 90, 3, 41, 41, 41, 200, 1)


def cases(engine: Engine) -> Iterator[tuple[str, Rows]]:
    """Named batches of rows."""
    for length in (n for n in LENGTHS if n <= engine.info.max_length_tokens):
        yield f"a row of {length:,} tokens", random_rows([length])
    yield "a batch of mixed lengths", random_rows(MIXED)
    for name, (query, document) in PAIRS.items():
        yield (
            name,
            [row.token_ids for row in engine.tokenizer.read(Reading(query=query, documents=[document]))],
        )


def compare(directory: Path, device: str) -> list[dict[str, Any]]:
    engine = Engine.load(directory, device=device, dtype="fp32", max_length_tokens=8192)
    plain = plain_model(AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32))
    found: list[dict[str, Any]] = []
    for name, rows in cases(engine):
        difference = float(np.abs(engine.score(rows) - plain(rows)).max())
        print(f"  {difference:8.1e}  {name} ({sum(map(len, rows)):,} tokens)", flush=True)
        found.append({"case": name, "difference": difference})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default="small,mini", help="small, mini, true-shape, a directory; commas")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "rerankq-bench-models")
    asked = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {}
    for name in asked.models.split(","):
        print(f"{name}: largest difference of a logit")
        results[name] = compare(model_directory(name, asked.cache), asked.device)
    print(json.dumps(results))
    worst = max(row["difference"] for rows in results.values() for row in rows)
    sys.exit(not worst <= TOLERANCE)  # NaN is not within it


if __name__ == "__main__":
    with ends_quietly():
        main()
