"""What every request passes on its way in and out: it gets a name, is let in or not, is answered, and is written down.

One line per request in the log, and never a word of what was asked.
"""

import asyncio
import logging
import re
import secrets
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerankq.contract import traces
from rerankq.contract.errors import RerankError
from rerankq.http.errors import RETRY_LATER, Refusal, refusal, refused
from rerankq.http.keys import refuse_strangers
from rerankq.http.service import Service, Visit

log = logging.getLogger("rerankq.http")
_SANE_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_SLASHES = re.compile("/{2,}")
_TWICE = re.compile("^(?:/v1(?=/v[12]/)|(?:/v[12])?/rerank(?=(?:/v[12])?/rerank$))")


class RequestMiddleware:
    """An application, seen from outside."""

    def __init__(self, app: ASGIApp, service: Service, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._service = service
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visitor = _Visitor({**scope, "path": _path(scope)}, send)
        handed = traces.handed.set(visitor.traceparent)
        try:
            await self._answer(visitor, receive)
        finally:
            traces.handed.reset(handed)
            self._service.held_bytes -= getattr(visitor.request.state, "held_bytes", 0)
            self._write_down(visitor)

    async def _answer(self, visitor: "_Visitor", receive: Receive) -> None:
        """The application's answer, or the refusal that its failure means."""
        try:
            refuse_strangers(visitor.request, self._service.keys)
            await self._app(visitor.request.scope, receive, visitor.send)
        except asyncio.CancelledError:  # told to stop, and the time to finish is over
            await visitor.refuse(
                Refusal(503, "stopping", "the service stops; try again later", None, RETRY_LATER)
            )
        except Exception as error:  # noqa: BLE001 - the one boundary: whatever goes wrong is told in our own shape
            _say_why(visitor.name, error)
            await visitor.refuse(refusal(error))

    def _write_down(self, visitor: "_Visitor") -> None:
        request = visitor.request
        route = next(
            (each for each in self._routes if each.matches(request.scope)[0] is not Match.NONE), None
        )
        visit = Visit(
            method=request.method,
            route=getattr(route, "path", "-"),
            status=visitor.status,
            seconds=time.monotonic() - visitor.came_at,
            request_id=visitor.name,
            documents=getattr(request.state, "documents", None),
            refused=visitor.refused,
        )
        documents = "" if visit.documents is None else f" {visit.documents:,} documents"
        log.info(
            "%s %s %d %.3f s%s request %s",
            *(visit.method, visit.route, visit.status, visit.seconds, documents, visit.request_id),
            extra={"fields": {"trace_id": visitor.trace_id}},
        )
        for onlooker in self._service.onlookers:
            onlooker(visit)


class _Visitor:
    """A request and the way back to whoever sent it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.request = Request(scope)
        self.came_at = time.monotonic()
        self.status = 0
        self.refused: str | None = None
        self._send = send
        given = self.request.headers.get("x-request-id", "")
        self.name = given if _SANE_ID.fullmatch(given) else secrets.token_hex(8)
        self.request.state.request_id = self.name
        told = self.request.headers.get(traces.HEADER)
        origin = traces.read(told)
        self.traceparent, self.trace_id = (told, origin.trace_id) if origin else (None, None)

    async def send(self, message: Message) -> None:
        """Our answer, with what every answer says."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.name
            headers["X-Content-Type-Options"] = "nosniff"
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """The same for a request that gets none; where an answer has begun, it ends there."""
        self.refused = refusal.type
        if not self.status:
            reply = refused(refusal, getattr(self.request.state, "dialect", "cohere"), self.name)
            await reply(self.request.scope, self.request.receive, self.send)


def _path(scope: Scope) -> str:
    """As it is meant: some clients put `/v1`, `/rerank` or a slash behind a base URL that may end in it already."""
    root = scope.get("root_path", "")
    path = _SLASHES.sub("/", scope["path"].removeprefix(root)).rstrip("/")
    return root + (_TWICE.sub("", path) or "/")


def _say_why(request_id: str, error: Exception) -> None:
    """For the operator, what its caller is not told; of what is none of our errors no word but where it was raised."""
    if not isinstance(error, RerankError | HTTPException | Refusal):
        where = [
            f"{Path(frame.filename).name}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        log.error("request %s: %s at %s. This is a bug.", request_id, type(error).__name__, " > ".join(where))
    elif isinstance(error, RerankError) and refusal(error).status >= 500:
        log.warning("request %s: %s: %s", request_id, type(error).__name__, error.message)
