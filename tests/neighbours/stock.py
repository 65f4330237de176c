"""Somebody else's Celery application, with nothing of ours in it: `celery -A tests.neighbours.stock worker`."""

import contextlib
import gc
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from celery import Celery

REPOSITORY = Path(__file__).parent.parent.parent
URL = os.environ.get("STOCK_URL", "redis://127.0.0.1:1/0")

app = Celery("shop", broker=URL, backend=URL, set_as_current=False)
app.conf.update(worker_concurrency=1, broker_connection_retry_on_startup=True, worker_prefetch_multiplier=1)


@app.task(name="shop.retrieve", shared=False)
def retrieve(query: str) -> dict[str, object]:
    """What a search finds."""
    return {"query": query, "documents": ["a bird", f"all about {query}", "a fish"]}


@app.task(name="shop.search", shared=False)
def search(query: str) -> list[str]:
    """The documents alone."""
    return [f"all about {query}", "a fish"]


@app.task(name="shop.delegate", bind=True, shared=False)
def delegate(self: object, query: str) -> None:
    """Puts our task in its place."""
    fields = {"query": query, "documents": ["a bear", "a bird"]}
    raise self.replace(app.signature("rerankq.rerank", kwargs=fields, queue="rerankq.bulk"))


@app.task(name="shop.consume", shared=False)
def consume(ranking: dict[str, object]) -> int:
    """What comes after the ranking: how many documents were scored."""
    return ranking["scored"]


@app.task(name="shop.gather", shared=False)
def gather(rankings: list[dict[str, object]]) -> int:
    """The body of a chord."""
    return sum(ranking["scored"] for ranking in rankings)


@app.task(name="shop.refuse", shared=False)
def refuse(text: str) -> None:
    """Fails, and says all that it was given."""
    raise ValueError(text)


@app.task(name="shop.note", shared=False)
def note(*given: object) -> None:
    """What is called where a job failed: leaves a trace."""
    app.backend.client.rpush("shop:noted", repr(given))


@contextlib.contextmanager
def working(url: str) -> Iterator[Path]:
    """Its worker on this Redis, begun; the file of its log."""
    command = f"{sys.executable} -m celery -A {__name__} worker -n stock@%h -l INFO".split()
    environment = {**os.environ, "STOCK_URL": url, "PYTHONPATH": str(REPOSITORY)}
    with tempfile.TemporaryDirectory() as directory, (Path(directory) / "log").open("wb") as file:
        log = Path(file.name)
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=file, stderr=file)
        try:
            give_up_at = time.monotonic() + 60
            while "ready." not in log.read_text() and process.poll() is None:
                assert time.monotonic() < give_up_at, log.read_text()
                time.sleep(0.05)
            yield log
        finally:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def asking(url: str) -> Iterator[Celery]:
    """The application as its own producers have it."""
    with Celery("shop", broker=url, backend=url, set_as_current=False) as shop:
        shop.conf.update(broker_transport_options={"socket_timeout": 10})
        yield shop
        with warnings.catch_warnings(action="ignore"):
            # A result that is let go once Redis has ended tries for 20 s to say so.
            shop.backend._pending_results.concrete.clear()
            gc.collect()
