"""A plain Redis client for an address that Celery also understands."""

from typing import Any

from kombu.connection import Connection
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

_NEVER_RESEND = Retry(NoBackoff(), 0)  # a call that timed out may have been carried out; its caller decides


def redis_client(url: str, timeout_seconds: float) -> "Redis":
    """A client whose every call ends within `timeout_seconds`.

    Args:
        url: `redis://`, `rediss://`, `redis+socket://` or `sentinel://`, as in Celery's own settings.
    """
    options = {"socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds}
    if url.startswith("sentinel://"):
        return _through_kombu(url, options)
    return Redis.from_url(url.replace("redis+socket://", "unix://"), retry=_NEVER_RESEND, **options)


def _through_kombu(url: str, options: dict[str, Any]) -> "Redis":
    master_name = {"master_name": "mymaster"}  # kombu reads another from the URL's query
    connection = Connection(url, transport_options={**master_name, **options})
    channel: Any = connection.default_channel
    return channel.client
