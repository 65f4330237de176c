"""The application: its routes, and what each request passes on its way in and out."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rerankq.aio import AsyncRerankClient
from rerankq.contract.errors import RerankError
from rerankq.http import ranking, state
from rerankq.http.errors import Refusal, refusal, refused
from rerankq.http.keys import Keys
from rerankq.http.service import Service
from rerankq.http.settings import HttpSettings

RERANK_PATHS = ("/v1/rerank", "/v2/rerank", "/rerank", "/v1/reranking")


def create_app(client: AsyncRerankClient | None = None, settings: HttpSettings | None = None) -> Starlette:
    """The HTTP face as an ASGI application, to be served alone or mounted in another.

    Args:
        client: who asks; one of its own, of `settings`, when absent, closed at the end.
        settings: as the environment has them when absent.
    """
    settings = settings or HttpSettings.load()
    asks = client or AsyncRerankClient(settings=settings)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        yield
        if client is None:
            await asks.close()

    app = Starlette(
        routes=[
            *(Route(path, ranking.rerank, methods=["POST"]) for path in RERANK_PATHS),
            Route("/health", state.health),
            Route("/v1/state", state.state),
        ],
        lifespan=lifespan,
        exception_handlers={RerankError: _refuse, HTTPException: _refuse},
    )
    app.state.service = Service(asks, settings, Keys(lambda: settings.keys))
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    """What a caller is told of a failure."""
    if isinstance(error, RerankError):
        told = refusal(error)
    elif isinstance(error, HTTPException):
        told = Refusal(error.status_code, "http_error", error.detail, headers=dict(error.headers or {}))
    else:
        raise error
    return refused(told, getattr(request.state, "dialect", "cohere"), secrets.token_hex(8))
