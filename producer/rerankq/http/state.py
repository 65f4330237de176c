"""How the service is: for probes, for clients that look before they ask, for the page. No user text."""

from collections import Counter
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rerankq import __version__
from rerankq.contract import keys
from rerankq.contract.errors import BrokerUnavailable, NoWorkers
from rerankq.contract.heartbeats import IN_SERVICE, WorkerStatus
from rerankq.contract.refusals import refusal_in
from rerankq.contract.served import ServedModel, served_models
from rerankq.http.errors import RETRY_LATER
from rerankq.http.ranking import json_response
from rerankq.http.service import service_of

USUAL_MAX_LENGTH_TOKENS = (
    512  # what clients of TEI take it for when not told; a worker of an older release does not say
)

_SHOWN = (
    "name",
    "state",
    "lanes",
    "device",
    "dtype",
    "model",
    "revision",
    "engine",
    "family",
    "scale",
    "serves_unnamed",
    "pairs_per_second",
    "seen_seconds_ago",
)


async def health(request: Request) -> Response:
    """200 while Redis answers and a worker is ready to score; else 503, which is missing and what Redis refuses."""
    try:
        workers = await service_of(request).client.workers()
    except BrokerUnavailable as error:
        return _unwell(_what_redis_does(error.__cause__), redis=False)
    serving = sum(worker.state in IN_SERVICE for worker in workers)
    if not serving:
        states = Counter(worker.state for worker in workers)
        told = ", ".join(f"{count} {state}" for state, count in states.items()) or "none heard of lately"
        return _unwell(f"no worker is ready to score: {told}", redis=True)
    return json_response({"status": "ok", "redis": True, "workers": serving})


async def ready(request: Request) -> Response:
    """200 while Redis answers: jobs are taken then, and answers handed out, also while no worker is there.

    Raises:
        BrokerUnavailable: Redis does not answer.
    """
    await service_of(request).client.workers()
    return json_response({"status": "ok"})


async def models(request: Request) -> Response:
    """What is served, as OpenAI lists it; first what answers requests that name no model."""
    served = served_models(await _workers(request), {})
    revisions = Counter(each.model for each in served)
    listed = [
        _model(each.names[-1] if revisions[each.model] > 1 else each.model, each)
        for each in sorted(served, key=lambda each: not each.serves_unnamed)
    ]
    return json_response({"object": "list", "data": listed})


async def info(request: Request) -> Response:
    """What Text Embeddings Inference tells of itself, for clients that look there first, and name no model.

    Raises:
        NoWorkers: nobody is there to tell the model.
    """
    workers, settings = await _workers(request), service_of(request).settings
    if not workers:
        raise NoWorkers("no worker is there to tell its model")
    worker = workers[0]
    max_length = worker.max_length_tokens or USUAL_MAX_LENGTH_TOKENS
    return json_response(
        {
            "model_id": worker.model,
            "model_sha": worker.revision or None,
            "model_dtype": worker.dtype,
            "engine": worker.engine,
            "family": worker.family,
            "scale": worker.scale,
            "served_model_name": worker.model,
            "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
            "max_concurrent_requests": settings.http_max_waiting,
            "max_input_length": max_length,
            "max_batch_tokens": max_length,
            "max_client_batch_size": settings.max_documents,
            "auto_truncate": True,
            "tokenization_workers": len(workers),
            "version": __version__,
            **dict.fromkeys(("sha", "docker_label", "max_batch_requests")),  # TEI's own are null, not absent
        }
    )


async def state(request: Request) -> Response:
    """The lanes and the workers, as they are now."""
    client = service_of(request).client
    paused = await client.paused()
    lanes = {
        lane: {"jobs": jobs, "is_paused": keys.pause_of(lane) in paused}
        for lane, jobs in (await client.lanes()).items()
    }
    workers = [{name: getattr(worker, name) for name in _SHOWN} for worker in await client.workers()]
    return json_response({"lanes": lanes, "workers": workers, "redis": True})


async def _workers(request: Request) -> list[WorkerStatus]:
    """Those that have told their model, first those that take requests which name none, and score."""
    known = [worker for worker in await service_of(request).client.workers() if worker.model]
    return sorted(known, key=lambda worker: (not worker.serves_unnamed, worker.state not in IN_SERVICE))


def _model(name: str, of: ServedModel) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "rerankq",
        "revision": of.revision or None,
        "serves_unnamed": of.serves_unnamed,
        **{f"{fact}s": of.all_of(fact) for fact in ("device", "engine", "dtype")},
    }


def _what_redis_does(error: BaseException | None) -> str:
    refusal = refusal_in(error) if isinstance(error, Exception) else None
    return f"Redis refuses: {refusal.what}; {refusal.cure}" if refusal else "Redis does not answer"


def _unwell(message: str, *, redis: bool) -> Response:
    told = {"status": "unavailable", "redis": redis, "workers": 0, "message": message}
    return json_response(told, 503, RETRY_LATER)
