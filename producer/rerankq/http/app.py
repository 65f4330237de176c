"""The application: its routes, and what each request passes on its way in and out."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rerankq.aio import AsyncRerankClient
from rerankq.http import batch, jobs, ranking, state
from rerankq.http.canaries import canaries
from rerankq.http.keys import Keys
from rerankq.http.metrics import Metrics
from rerankq.http.middleware import RequestMiddleware
from rerankq.http.openapi import openapi
from rerankq.http.page import page
from rerankq.http.service import Service
from rerankq.http.settings import HttpSettings


def create_app(client: AsyncRerankClient | None = None, settings: HttpSettings | None = None) -> Starlette:
    """The HTTP face as an ASGI application, to be served alone or mounted in another.

    Args:
        client: who asks; one of its own, of `settings`, when absent, closed at the end.
        settings: as the environment has them when absent.
    """
    settings = settings or HttpSettings.load()
    asks = client or AsyncRerankClient(settings=settings)
    service = Service(asks, settings, Keys(settings))

    metrics = Metrics(service)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        async with canaries(asks, settings, metrics.note_canary):
            yield
        await _finish(service)
        if client is None:
            await asks.close()

    routes = [
        Route("/", page),
        *(Route(path, ranking.rerank, methods=["POST"]) for path in ranking.PATHS),
        Route(batch.PATH, batch.batch, methods=["POST"]),
        Route(jobs.PATH, jobs.submit, methods=["POST"]),
        Route(f"{jobs.PATH}/{{job_id}}", jobs.one, methods=["GET", "DELETE"]),
        Route("/health", state.health),
        Route("/health/ready", state.ready),
        Route("/v1/models", state.models),
        Route("/info", state.info),
        Route("/metrics", metrics.tell),
        Route("/v1/state", state.state),
        Route("/openapi.json", openapi),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(RequestMiddleware, service=service, routes=routes)],
        lifespan=lifespan,
        exception_handlers={HTTPException: _pass_on},
    )
    app.state.service = service
    return app


async def _pass_on(_request: Request, error: Exception) -> Response:
    """To the middleware, which tells every failure in one shape."""
    raise error


async def _finish(service: Service) -> None:
    """Wait until those that are given up have called their jobs off."""
    give_up_at = time.monotonic() + service.settings.redis_timeout_seconds + 1
    while service.waiting and time.monotonic() < give_up_at:
        await asyncio.sleep(0.01)
