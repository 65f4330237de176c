"""Read a request's JSON, no more of it than is allowed."""

from typing import Any

from starlette.requests import ClientDisconnect, Request

from rerankq.contract import wire
from rerankq.contract.errors import Cancelled, InvalidRequest, PayloadTooLarge


async def read_json(request: Request, max_bytes: int) -> Any:
    """What the body says.

    Raises:
        PayloadTooLarge: it has more bytes than that; the rest is not read.
        InvalidRequest: it is no JSON.
        Cancelled: the caller hung up meanwhile.
    """
    body = await _read(request, max_bytes)
    try:
        return wire.decode(body)
    except ValueError:
        raise InvalidRequest("body: expected JSON in UTF-8", {"field": "body", "malformed": True}) from None


async def _read(request: Request, max_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > max_bytes:
                raise _too_large(max_bytes)
    except ClientDisconnect:
        raise Cancelled("the caller hung up") from None
    return bytes(body)


def _too_large(max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"body: expected at most {max_bytes:,} bytes; split the request", {"limit": max_bytes}
    )
