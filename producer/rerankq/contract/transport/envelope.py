"""The message as it lies on a list: a JSON object that says how to read it and how often it was delivered.

Knows the shape of kombu's envelope; knows neither Redis nor what a task is. Bytes on a list may come from
anybody, so everything here is checked before kombu is allowed to trust it.
"""

import base64
import binascii
import json
import zlib
from typing import Any

from rerankq.contract import keys, wire
from rerankq.contract.totals import Cause

DELIVERIES_HEADER = "x-deliveries"
"""How often the message has been handed to a worker. Absent means once."""

PAYLOAD_HEADER = "rerankq-payload"
"""The key of a payload that travels outside its message, deleted with the ack."""

PAYLOAD_KEY_PREFIX = keys.payload("")
"""What a payload key must begin with: a message must not be able to name any other key for deletion."""

RECORD_HEADER = "rerankq-record"
"""The key of the record that its producer keeps of a job; a message that names one is missed when it vanishes."""

RECORD_KEY_PREFIX = keys.job("")

PUSHED = "pushed"
"""Where in its envelope a message that is missed when it vanishes says when it was put on its list."""

CAME = "came"
"""Where in its envelope, before all but that, a message that is handed to a worker once more says why."""

LARGEST_BODY_BYTES = 128_000_000
LONGEST_ID = 200

Envelope = dict[str, Any]


class Undecodable(ValueError):
    """The bytes on the list are no message that can be delivered: retrying cannot help, only a person can."""

    def __init__(self, reason: str, envelope: Envelope | None = None) -> None:
        super().__init__(reason)
        self.envelope = envelope or {}
        """As much of it as could be read: headers and properties, where they are tables."""


def open_envelope(raw: bytes) -> Envelope:
    """The envelope in `raw`, safe to hand to kombu.

    Raises:
        Undecodable: `raw` is no envelope; the text says which part is wrong and quotes nothing of it.
    """
    envelope = _table(_parsed(raw), "the envelope")
    try:
        _check(envelope)
    except Undecodable as error:
        tables = {name: part for name, part in envelope.items() if isinstance(part, dict)}
        raise Undecodable(str(error), tables) from error
    return envelope


def seal_envelope(envelope: Envelope) -> str:
    """The envelope as it goes back to a list: spaced as kombu does it, which the scripts look for."""
    return json.dumps(envelope)


def deliveries(headers: Envelope | None) -> int:
    """How often the message with these headers was delivered, this time included; at least 1."""
    count = (headers or {}).get(DELIVERIES_HEADER, 1)
    return max(count, 1) if isinstance(count, int) else 1


def as_came(envelope: Envelope, cause: Cause) -> Envelope:
    """The envelope, saying at its beginning why it is handed to a worker once more."""
    first = {PUSHED: envelope[PUSHED]} if PUSHED in envelope else {}
    return {
        **first,
        CAME: cause,
        **{name: part for name, part in envelope.items() if name not in (PUSHED, CAME)},
    }


def mark_redelivered(envelope: Envelope, cause: Cause, *, counted: bool) -> Envelope:
    """The envelope for its next delivery; `counted` when this one ended with a lost worker."""
    headers = envelope.get("headers") or {}
    again: Envelope = {"redelivered": True}
    if counted:
        again[DELIVERIES_HEADER] = deliveries(headers) + 1
    properties = envelope["properties"]
    delivery_info = (properties.get("delivery_info") or {}) | {"redelivered": True}
    return as_came(envelope, cause) | {
        "headers": headers | again,
        "properties": properties | {"delivery_info": delivery_info},
    }


def is_id(value: Any) -> bool:
    """Whether this can name a job: in a Redis key, in a log line."""
    return isinstance(value, str) and 0 < len(value) <= LONGEST_ID and value.isprintable()


def job_id(envelope: Envelope) -> str | None:
    """The job that somebody waits for, if the message names one.

    Celery writes it among the properties as well, and in its first protocol nowhere else outside the body.
    """
    named = (
        (envelope.get("headers") or {}).get("id"),
        (envelope.get("properties") or {}).get("correlation_id"),
    )
    return next(filter(is_id, named), None)


def payload_key(headers: Envelope | None) -> str | None:
    """The key that is to go with the ack of the message with these headers, if it names a proper one."""
    key = (headers or {}).get(PAYLOAD_HEADER)
    return key if isinstance(key, str) and key.startswith(PAYLOAD_KEY_PREFIX) else None


def record_key(headers: Envelope | None) -> str | None:
    """The key of the record of the job with these headers, if its producer keeps one and named it."""
    key = (headers or {}).get(RECORD_HEADER)
    return key if isinstance(key, str) and key.startswith(RECORD_KEY_PREFIX) else None


def _parsed(raw: bytes) -> Any:
    try:
        return wire.decode(raw)
    except ValueError as error:
        raise Undecodable(f"expected a JSON object, got {len(raw)} bytes that are none") from error


def _check(envelope: Envelope) -> None:
    """Refuse what kombu would trip over, and fill in what may be absent."""
    envelope["headers"] = _table(envelope.get("headers") or {}, "headers")
    properties = envelope["properties"] = _table(envelope.get("properties") or {}, "properties")
    properties["delivery_info"] = _table(properties.get("delivery_info") or {}, "delivery_info")
    _check_text(envelope, "content-type")
    _check_text(envelope, "content-encoding")
    body = _decoded_body(envelope.get("body"), properties.get("body_encoding"))
    _check_compression(envelope["headers"].get("compression"), body)


def _table(value: Any, name: str) -> Envelope:
    if not isinstance(value, dict):
        raise Undecodable(f"expected {name} to be a JSON object, got {type(value).__name__}")
    return value


def _check_text(table: Envelope, name: str) -> None:
    value = table.get(name)
    if value is not None and not isinstance(value, str):
        raise Undecodable(f"expected {name} to be text, got {type(value).__name__}")


def _decoded_body(body: Any, body_encoding: Any) -> bytes:
    if not isinstance(body, str):
        raise Undecodable(f"expected the body to be text, got {type(body).__name__}")
    if body_encoding not in ("base64", "utf-8", None):
        raise Undecodable("expected body_encoding to be base64 or utf-8")
    try:
        return base64.b64decode(body) if body_encoding == "base64" else body.encode()
    except (binascii.Error, ValueError) as error:
        raise Undecodable("the body is not what its body_encoding says") from error


def _check_compression(compression: Any, body: bytes) -> None:
    """Refuse a body that unpacks to more than a worker should hold; kombu unpacks it in the parent, unbounded."""
    if compression is None:
        return
    unpack = _UNPACK.get(compression) if isinstance(compression, str) else None
    if unpack is None:
        raise Undecodable("expected a body without compression, or with zstd or gzip")
    try:
        unpacked = unpack(body, LARGEST_BODY_BYTES)
    except (zlib.error, ValueError) as error:
        raise Undecodable("the body is not what its compression says") from error
    if unpacked is None:
        raise Undecodable(f"expected the body to unpack to at most {LARGEST_BODY_BYTES:,} bytes")


def _gunzip_bounded(data: bytes, max_bytes: int) -> bytes | None:
    unpacked = zlib.decompressobj().decompress(data, max_bytes + 1)
    return unpacked if len(unpacked) <= max_bytes else None


_UNPACK = {"application/zstd": wire.decompress_bounded, "application/x-gzip": _gunzip_bounded}
