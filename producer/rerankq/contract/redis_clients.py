"""A plain Redis client for an address that Celery also understands."""

import math
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from rerankq.contract.address import read_address

_ANY_NUMBER = 2**31  # of connections: a thread that waits has one, and redis-py refuses the 101st
_NEVER_RESEND = Retry(NoBackoff(), 0)  # a call that timed out may have been carried out; its caller decides


def redis_client(url: str, timeout_seconds: float) -> "Redis":
    """A client for any number of threads, whose every call ends within `timeout_seconds`."""
    address, limits = read_address(url), asked_once(timeout_seconds)
    options: dict[str, Any] = {**address.for_redis_py(), **limits, "max_connections": _ANY_NUMBER}
    options["protocol"] = 2  # in which an announcement is a reply like any other
    if address.is_sentinel:
        sentinel = Sentinel(address.hosts, sentinel_kwargs=limits)
        return sentinel.master_for(address.master_name, redis_class=_Master, **options)
    return Redis(**options)


def hang_up(client: "Redis") -> None:
    """Close the connections that nobody uses; whoever waits on one keeps it until then."""
    pool: Any = client.connection_pool
    pool.disconnect(inuse_connections=False)
    if isinstance(client, _Master):
        for sentinel in pool.sentinel_manager.sentinels:
            sentinel.connection_pool.disconnect(inuse_connections=False)


def asked_once(timeout_seconds: float) -> dict[str, Any]:
    """redis-py's options for a Redis or a sentinel that answers in time or counts as down.

    By itself redis-py tries a sentinel that is down for seconds before it asks the next.
    """
    return {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "retry": _NEVER_RESEND,
    }


def reply_or(reply: Any, otherwise: Any) -> Any:
    """A reply of a pipeline that was told not to raise; `otherwise` where the key holds something of another type."""
    if isinstance(reply, RedisError) and is_of_another_type(reply):
        return otherwise
    if isinstance(reply, RedisError):
        raise reply
    return reply


def is_of_another_type(error: RedisError) -> bool:
    """Whether a command was refused for what a key holds, rather than for how Redis is."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def number_in(text: bytes | str | None) -> float | None:
    """The number that a field of ours holds; None where it holds none."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class _Master(Redis):
    """A client of whichever Redis the sentinels name; closes the connections to them as well."""

    def close(self) -> None:
        super().close()
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            sentinel.close()
