"""The routes that rank and wait: `/rerank` in every dialect."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rerankq.contract import wire
from rerankq.contract.messages import Ranking, RequestOptions
from rerankq.http import dialects
from rerankq.http.bodies import read_json
from rerankq.http.deadlines import timeout_seconds
from rerankq.http.errors import Refusal
from rerankq.http.service import Service, service_of
from rerankq.web import unless_gone

PATHS = ("/v1/rerank", "/v2/rerank", "/rerank", "/v1/reranking")


async def rerank(request: Request) -> Response:
    """The ranking of one query's documents, in the words of whoever asks."""
    service = service_of(request)
    with service.place():
        timeout = timeout_seconds(request, service.settings.http_timeout_seconds)
        body = await read_json(request, service.settings.http_max_body_bytes)
        request.state.dialect = dialects.dialect_of(body)
        asked = dialects.read(
            body,
            max_documents=service.settings.max_documents,
            may_return_documents=not request.url.path.endswith("/v2/rerank"),
        )
        request.state.documents = len(asked.documents)
        ranking = await unless_gone(request, _ranking(service, asked, timeout))
    return json_response(dialects.reply(asked, ranking))


async def served_model(service: Service, asked: str | None) -> str | None:
    """The model that a request means, as its workers call it; None where it means whichever is served.

    Most clients cannot do without a model's name, and many send a fixed one (`rerank-v3.5`): a name without a slash is
    such a label, unless a model that is served is called so, at whatever revision. With one it is a Hub id, and meant.

    Raises:
        Refusal: the one that is meant is not served.
    """
    if asked is None:
        return None
    workers = await service.client.workers()
    served = [(worker.model, worker.revision) for worker in workers if worker.model]
    found = dialects.meant(asked, served)
    name, at_revision, _ = asked.partition("@")
    if found or ("/" not in asked and not dialects.meant(name, served)):
        return found
    if workers and all(worker.model for worker in workers):
        raise _not_served({"@".join(each) if at_revision else each[0] for each in served})
    return asked


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply in JSON."""
    return Response(wire.encode(content), status, headers, "application/json")


async def _ranking(service: Service, asked: dialects.Asked, timeout: float) -> Ranking:
    options: RequestOptions = {**asked.options, "model": await served_model(service, asked.model)}
    return await service.client.rerank(asked.query, asked.documents, timeout=timeout, **options)


def _not_served(served: set[str]) -> Refusal:
    known = ", ".join(sorted(served))
    return Refusal(404, "model_not_found", f"model: not served here; served: {known}", "model")
