"""Read a request's JSON: no more of it than is allowed, for no longer than is reasonable."""

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request

from rerankq.contract import wire
from rerankq.contract.errors import Cancelled, InvalidRequest, PayloadTooLarge
from rerankq.http.errors import Refusal
from rerankq.http.service import service_of

ARRIVES_WITHIN_SECONDS = 30.0  # whoever sends slower holds a place that others want
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


async def read_json(request: Request, max_bytes: int) -> Any:
    """What the body says.

    Raises:
        PayloadTooLarge: it has more bytes than that; the rest is not read.
        QueueFull: there are too many such bodies already.
        InvalidRequest: it is no JSON.
        Refusal: it is compressed, or comes too slowly.
        Cancelled: the caller hung up meanwhile.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        message = "content-encoding: expected none; send the body as it is"
        raise Refusal(
            415, "unsupported_media_type", message, "content-encoding", {"Accept-Encoding": "identity"}
        )
    body = await _read(request, max_bytes)
    try:
        return wire.decode(body.removeprefix(_BYTE_ORDER_MARK))
    except ValueError:
        raise InvalidRequest("body: expected JSON in UTF-8", {"field": "body", "malformed": True}) from None


def hold(request: Request, count: int) -> None:
    """Hold so many more bytes until this request is over.

    Raises:
        QueueFull: with those of all others they are more than this process should hold.
    """
    service_of(request).hold(count)
    request.state.held_bytes = getattr(request.state, "held_bytes", 0) + count


async def _read(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(ARRIVES_WITHIN_SECONDS):
            async for part in request.stream():
                if len(body) + len(part) > max_bytes:
                    raise _too_large(max_bytes)
                hold(request, len(part))
                body += part
    except ClientDisconnect:
        raise Cancelled("the caller hung up", {"hung_up": True}) from None
    except TimeoutError:
        message = f"body: expected all of it within {ARRIVES_WITHIN_SECONDS:.0f} s"
        raise Refusal(408, "request_timeout", message, "body", {"Connection": "close"}) from None
    return bytes(body)


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"body: expected at most {max_bytes:,} bytes; split the request", {"limit": max_bytes}
    )
