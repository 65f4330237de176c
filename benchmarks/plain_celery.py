"""What `bench_service peers` measures against: the Celery application that people write around a CrossEncoder.

BENCH_REDIS=redis://… BENCH_MODEL=… celery -A benchmarks.plain_celery worker --concurrency 1
"""

import os
from functools import cache
from typing import Any

from celery import Celery

app = Celery(
    "plain", broker=os.environ.get("BENCH_REDIS"), backend=os.environ.get("BENCH_REDIS"), set_as_current=False
)
app.conf.worker_prefetch_multiplier = 1


@cache
def encoder() -> Any:
    """The model, loaded by the first job of a process."""
    from sentence_transformers import CrossEncoder

    kind = {"torch_dtype": "float32"}
    return CrossEncoder(
        os.environ["BENCH_MODEL"],
        device="cpu",
        max_length=int(os.environ["BENCH_MAX_LENGTH"]),
        model_kwargs=kind,
    )


@app.task(name="rank", shared=False)
def rank(query: str, documents: list[str]) -> list[float]:
    """The documents' scores, in their order."""
    pairs = [(query, document) for document in documents]
    return [float(score) for score in encoder().predict(pairs, show_progress_bar=False)]
