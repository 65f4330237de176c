"""What `bench_web` asks by HTTP: the FastAPI application of docs/web.md, and CrossEncoder behind a plain one.

For `uvicorn --factory`. Each tells at `/lags` by how much its event loop was late since it was last asked.
"""

import asyncio
import json
import os
import threading
import time
from importlib import import_module
from typing import Any

LAG_PERIOD_SECONDS = 0.005


class Watched:
    """An ASGI application whose loop is watched from its first request on."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._lags: list[float] = []
        self._watching: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        if scope.get("path") != "/lags":
            await self._app(scope, receive, send)
            return
        lags, self._lags = self._lags, []
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(lags).encode()})

    async def _watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(LAG_PERIOD_SECONDS)
            self._lags.append(time.perf_counter() - began - LAG_PERIOD_SECONDS)


def rerankq() -> Watched:
    """`main.py` in the directory where it runs."""
    return Watched(import_module("main").app)


def crossencoder() -> Watched:
    """As people write it: a handler in FastAPI's threads. One at a time, for its tokenizer stands no two."""
    from fastapi import FastAPI
    from sentence_transformers import CrossEncoder

    app, one_at_a_time = FastAPI(), threading.Lock()
    encoder = CrossEncoder(
        os.environ["BENCH_MODEL"],
        device="cpu",
        max_length=int(os.environ["BENCH_MAX_LENGTH"]),
        model_kwargs={"torch_dtype": "float32"},
    )

    @app.post("/search")
    def search(query: str, documents: list[str]) -> list[dict[str, Any]]:
        with one_at_a_time:
            ranked = encoder.rank(query, documents, top_k=5, show_progress_bar=False)
        return [{"text": documents[int(r["corpus_id"])], "score": float(r["score"])} for r in ranked]

    return Watched(app)
