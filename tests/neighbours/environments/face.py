"""A `rerankq serve` for other people's programs, in front of a real service; asked so, it refuses."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from rerankq import (
    AsyncRerankClient,
    DeadlineExceeded,
    InvalidRequest,
    NoWorkers,
    QueueFull,
    Ranking,
    RerankError,
)
from rerankq.http import HttpSettings, create_app
from tests.redis_server import free_port
from tests.service import Service

KEY = "a-key-of-the-tests"
REFUSALS: dict[str, RerankError] = {
    "refuse 422": InvalidRequest("query: expected another", {"field": "query"}),
    "refuse 429": QueueFull("the lane is full", {"retry_after_seconds": 1.0}),
    "refuse 503": NoWorkers("nobody is there"),
    "refuse 504": DeadlineExceeded("the job's time ran out"),
}
"""What each of these queries meets, as if the queue had said so."""


class _Refusing(AsyncRerankClient):
    async def rerank(self, query: str, documents: Any, **options: Any) -> Ranking:
        if query in REFUSALS:
            raise REFUSALS[query]
        return await super().rerank(query, documents, **options)


@contextmanager
def face_of(service: Service) -> Iterator[str]:
    """Its address; whoever asks shows `KEY`."""
    settings = HttpSettings(
        broker_url=service.redis.url, redis_timeout_seconds=5.0, http_port=free_port(), http_keys=KEY
    )
    app = create_app(_Refusing(settings=settings), settings)
    server = uvicorn.Server(uvicorn.Config(app, port=settings.http_port, log_level="warning"))
    serving = threading.Thread(target=server.run)
    serving.start()
    try:
        service.wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{settings.http_port}"
    finally:
        server.should_exit = True
        serving.join()
