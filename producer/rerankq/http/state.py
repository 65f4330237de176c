"""How the service is: for probes, for clients that look before they ask, for the page. No user text."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rerankq.http.ranking import json_response
from rerankq.http.service import service_of


async def health(request: Request) -> Response:
    """200 while Redis answers and a worker is ready to score.

    Raises:
        BrokerUnavailable: Redis does not answer.
    """
    workers = await service_of(request).client.workers()
    serving = [worker.name for worker in workers if worker.state in ("ready", "busy")]
    return json_response({"status": "ok" if serving else "no worker"}, 200 if serving else 503)


async def ready(request: Request) -> Response:
    """200 while Redis answers: jobs are taken then, and answers handed out, also while no worker is there.

    Raises:
        BrokerUnavailable: Redis does not answer.
    """
    await service_of(request).client.workers()
    return json_response({"status": "ok"})


async def state(request: Request) -> Response:
    """The lanes and the workers, as they are now."""
    client = service_of(request).client
    lanes: dict[str, Any] = {lane: {"jobs": jobs} for lane, jobs in (await client.lanes()).items()}
    workers = [_told(worker) for worker in await client.workers()]
    return json_response({"lanes": lanes, "workers": workers, "redis": True})


def _told(worker: Any) -> dict[str, Any]:
    shown = (
        "name",
        "state",
        "lanes",
        "device",
        "dtype",
        "model",
        "revision",
        "pairs_per_second",
        "seen_seconds_ago",
    )
    return {name: getattr(worker, name) for name in shown}
