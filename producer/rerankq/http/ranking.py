"""The routes that rank and wait: `/rerank` in every dialect."""

import math
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rerankq.contract import wire
from rerankq.contract.errors import InvalidRequest
from rerankq.http import dialects
from rerankq.http.bodies import read_json
from rerankq.http.service import service_of
from rerankq.web import unless_gone


async def rerank(request: Request) -> Response:
    """The ranking of one query's documents, in the words of whoever asks."""
    service = service_of(request)
    with service.place():
        timeout = timeout_seconds(request, service.settings.http_timeout_seconds)
        body = await read_json(request, service.settings.http_max_body_bytes)
        request.state.dialect = dialects.dialect_of(body)
        asked = dialects.read(body, may_return_documents=not request.url.path.startswith("/v2/"))
        ranking = await unless_gone(
            request, service.client.rerank(asked.query, asked.documents, timeout=timeout, **asked.options)
        )
    return json_response(dialects.reply(asked, ranking))


def timeout_seconds(request: Request, default: float) -> float:
    """How long this caller waits, counted from now.

    Raises:
        InvalidRequest: `X-Timeout-Seconds` is no number of seconds.
    """
    given = request.headers.get("x-timeout-seconds")
    if given is None:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InvalidRequest(
            "X-Timeout-Seconds: expected a number of seconds, more than 0", {"field": "X-Timeout-Seconds"}
        )
    return seconds


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply in JSON."""
    return Response(wire.encode(content), status, headers, "application/json")
