"""Canaries sent through each lane every so often, for as long as the face runs; a lane that is paused is left alone."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from rerankq.aio import AsyncRerankClient
from rerankq.canary import Canary, names_for, patience_seconds, send_async
from rerankq.contract import keys
from rerankq.contract.errors import QueueFull, RerankError
from rerankq.contract.heartbeats import WorkerStatus
from rerankq.contract.messages import LANES, Lane
from rerankq.http.settings import HttpSettings

log = logging.getLogger(__name__)

Onlooker = Callable[[Canary], None]


@asynccontextmanager
async def canaries(
    client: AsyncRerankClient, settings: HttpSettings, onlooker: Onlooker
) -> AsyncGenerator[None]:
    """Send them while this is open, one at a time in each lane; those under way at its end are called off.

    Args:
        onlooker: told of each that came back, or did not.
    """
    lanes = LANES if settings.http_canary_seconds else ()
    flying = [asyncio.create_task(_keep_sending(lane, client, settings, onlooker)) for lane in lanes]
    try:
        yield
    finally:
        for task in flying:
            task.cancel()
        await asyncio.gather(*flying, return_exceptions=True)


async def _keep_sending(
    lane: Lane, client: AsyncRerankClient, settings: HttpSettings, onlooker: Onlooker
) -> None:
    while True:
        next_at = time.monotonic() + settings.http_canary_seconds
        try:
            canary = await _sent(lane, client, settings.http_timeout_seconds)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it was, the next one is sent
            log.warning("no canary could be sent through the %s lane: %s", lane, type(error).__name__)
        else:
            if canary is not None:
                onlooker(canary)
        await asyncio.sleep(max(next_at - time.monotonic(), 0.0))


async def _sent(lane: Lane, client: AsyncRerankClient, usual_seconds: float) -> Canary | None:
    """What became of one; None where its lane is paused, or was before it came back, or is full of bulk work."""
    started = time.monotonic()
    try:
        if await _is_paused(lane, client):
            return None
        waiting, workers = (await client.lanes())[lane], await client.workers()
        patience = patience_seconds(lane, usual_seconds, waiting, workers)
        canary = await _sent_to_each(_names_for(lane, workers), lane, client, patience)
        if canary.wrong is None or not (_is_of_no_room(canary) or await _is_paused(lane, client)):
            return _logged(canary)
    except RerankError as error:  # Redis is away
        return _logged(Canary(lane, time.monotonic() - started, error=error))
    return None


def _names_for(lane: Lane, workers: Iterable[WorkerStatus]) -> Sequence[str | None]:
    """What canaries have to name; where no model is served, nothing, and nobody answers."""
    return names_for(worker for worker in workers if lane in worker.lanes and not worker.is_draining) or [
        None
    ]


async def _sent_to_each(
    models: Sequence[str | None], lane: Lane, client: AsyncRerankClient, patience: float
) -> Canary:
    """The first that something is wrong with, else that which took longest."""
    sent: list[Canary] = []
    for model in models:
        sent.append(await send_async(client, lane, patience, model=model))
        if sent[-1].wrong is not None:
            return sent[-1]
    return max(sent, key=lambda canary: canary.total_seconds)


def _is_of_no_room(canary: Canary) -> bool:
    """Whether it was refused as whoever fills the bulk lane wants it: as far as it may be."""
    error = canary.error
    is_full = isinstance(error, QueueFull) and error.details.get("reason") in ("lane_full", "too_much_ahead")
    return canary.lane == "bulk" and is_full


async def _is_paused(lane: Lane, client: AsyncRerankClient) -> bool:
    return keys.pause_of(lane) in await client.paused()


def _logged(canary: Canary) -> Canary:
    if canary.wrong is not None:
        log.warning("canary through the %s lane: %s", canary.lane, canary.wrong)
    return canary
