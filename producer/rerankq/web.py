"""What a web application needs around the client; knows no framework.

`http_status(error)` is the one place that says what each error means to an HTTP caller (docs/web.md prints it).
`unless_gone(request, client.rerank(…))` gives a ranking up whose caller hangs up meanwhile.
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from rerankq.contract import errors
from rerankq.contract.errors import RerankError

GONE_PERIOD_SECONDS = 0.1  # how often a request is asked that can only be asked

T = TypeVar("T")

STATUS: Mapping[type[RerankError], int] = {
    errors.InvalidRequest: 422,
    errors.PayloadTooLarge: 413,
    errors.QueueFull: 429,
    errors.NoWorkers: 503,
    errors.BrokerUnavailable: 503,
    errors.DeadlineExceeded: 504,
    errors.JobFailed: 500,
    errors.ResultTimeout: 202,
    errors.JobUnknown: 404,
    errors.Cancelled: 409,
    errors.InvalidSettings: 500,
}
"""By the nearest class of an error."""


def http_status(error: RerankError) -> tuple[int, dict[str, str]]:
    """The status code that an error means to an HTTP caller, and the headers that go with it."""
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
    if not isinstance(error, errors.QueueFull):
        return status, {}
    return status, {"Retry-After": str(max(math.ceil(error.retry_after_seconds), 1))}


async def unless_gone(request: Any, asked: Awaitable[T]) -> T:
    """What was asked, unless the caller of `request` hangs up: then it is cancelled, and its job called off.

    Starlette, FastAPI and Litestar do not cancel a handler whose caller is gone. Read the request's body before.

    Args:
        request: a Starlette, FastAPI or Litestar request, or anything with `receive` (of ASGI) or `is_disconnected`.

    Raises:
        Cancelled: the caller is gone; nobody hears what is answered.
    """
    asking, going = asyncio.ensure_future(asked), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({asking, going}, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            await _end(asking)
        if asking.cancelled() and going.done():
            raise errors.Cancelled("the caller hung up", {"hung_up": True})
        return asking.result()
    finally:
        await _end(asking, going)


async def _gone(request: Any) -> None:
    """Comes back when the caller has hung up."""
    with contextlib.suppress(Exception):  # a request that cannot be watched is answered all the same
        while hasattr(request, "receive") and (await request.receive()).get("type") != "http.disconnect":
            pass
        while not hasattr(request, "receive") and not await request.is_disconnected():
            await asyncio.sleep(GONE_PERIOD_SECONDS)
        return
    await asyncio.Future[None]()


async def _end(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # it is told, or nobody is there to hear it
