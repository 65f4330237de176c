"""A plain Redis client for an address that Celery also understands."""

from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from rerankq.contract.sentinel import is_sentinel, read_sentinel_url

_NEVER_RESEND = Retry(NoBackoff(), 0)  # a call that timed out may have been carried out; its caller decides


def redis_client(url: str, timeout_seconds: float) -> "Redis":
    """A client whose every call ends within `timeout_seconds`.

    Args:
        url: `redis://`, `rediss://`, `redis+socket://` or `sentinel://`, as in Celery's own settings.
    """
    options = _once_within(timeout_seconds)
    if is_sentinel(url):
        asked = read_sentinel_url(url)
        sentinel = Sentinel(asked.sentinels, sentinel_kwargs=sentinel_options(timeout_seconds))
        return sentinel.master_for(asked.master_name, redis_class=_Master, **asked.login, **options)
    return Redis.from_url(url.replace("redis+socket://", "unix://"), **options)


def sentinel_options(timeout_seconds: float) -> dict[str, Any]:
    """How a sentinel is asked: once. redis-py would try one that is down for seconds before it asks the next."""
    return _once_within(timeout_seconds)


def _once_within(timeout_seconds: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout_seconds,
        "socket_connect_timeout": timeout_seconds,
        "retry": _NEVER_RESEND,
    }


class _Master(Redis):
    """A client of whichever Redis the sentinels name; closes the connections to them as well."""

    def close(self) -> None:
        super().close()
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            sentinel.close()
