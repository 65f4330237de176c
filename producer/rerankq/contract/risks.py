"""What in a Redis may lose jobs or answers, told by what it says of itself.

One judgement for the worker's log, `rerankq workers`, the metrics and their alerts. How much room is left on its disk
Redis does not tell; that a write to it failed, it does.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

from redis import Redis
from redis.exceptions import ResponseError

from rerankq.contract.redis_clients import redis_client
from rerankq.contract.settings import SharedSettings

RiskName = Literal["eviction", "no_log", "log_write", "log_rewrite", "snapshot", "fsync", "memory"]
RISKS: tuple[RiskName, ...] = get_args(RiskName)
FULL_FRACTION = 0.85  # of the memory that Redis may use; from here on no work is accepted
_MENDED = "free disk, or memory for the fork (vm.overcommit_memory=1)"
_FAILED: Mapping[str, tuple[RiskName, str]] = {
    "aof_last_write_status": (
        "log_write",
        "the last write to its append-only log failed, and it takes no job till one works; mend its disk",
    ),
    "aof_last_bgrewrite_status": (
        "log_rewrite",
        f"the last rewrite of its append-only log failed, and the log grows; {_MENDED}",
    ),
    "rdb_last_bgsave_status": ("snapshot", f"its last snapshot failed; {_MENDED}"),
}
_LOST_IN_A_POWER_CUT = {"everysec": "a second", "no": "half a minute"}


@dataclass(frozen=True, slots=True)
class Risk:
    """One thing that may lose what this Redis holds."""

    name: RiskName
    text: str
    """One line: what may be lost, and the cure."""


def redis_clients(settings: SharedSettings, timeout_seconds: float) -> dict[str, "Redis"]:
    """The Redis that holds the jobs, and the one that holds the answers where it is another."""
    urls = {"broker": settings.broker_url.get_secret_value(), "results": settings.effective_result_url}
    if urls["broker"] == urls["results"]:
        del urls["results"]
    return {store: redis_client(url, timeout_seconds) for store, url in urls.items()}


def read_risks(redis: "Redis") -> list[Risk]:
    """What may be lost in this Redis, worst first."""
    info: Any = redis.info()
    return risks(info, _appendfsync(redis))


def risks(info: Mapping[str, Any], appendfsync: str | None = None) -> list[Risk]:
    """What may be lost in a Redis that says this of itself, worst first.

    Args:
        info: the reply to `INFO`; what is missing there is not judged.
        appendfsync: that setting, where it is known.
    """
    return [*_of_eviction(info), *_of_the_disk(info, appendfsync), *_of_memory(info)]


def _of_eviction(info: Mapping[str, Any]) -> Iterator[Risk]:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and info.get("maxmemory", 0) > 0:
        yield Risk(
            "eviction",
            f"maxmemory-policy {policy} drops what it holds when memory is full "
            f"({info.get('evicted_keys', 0):,} keys dropped so far); set maxmemory-policy noeviction",
        )


def _of_the_disk(info: Mapping[str, Any], appendfsync: str | None) -> Iterator[Risk]:
    if info.get("aof_enabled", 1) == 0:
        yield Risk(
            "no_log",
            "its append-only log is off: killed, it forgets all since its last snapshot; set appendonly yes",
        )
    elif appendfsync in _LOST_IN_A_POWER_CUT:
        yield Risk(
            "fsync",
            f"appendfsync {appendfsync} loses up to {_LOST_IN_A_POWER_CUT[appendfsync]} in a power cut; "
            "set appendfsync always",
        )
    for told, (name, text) in _FAILED.items():
        if info.get(told, "ok") != "ok":
            yield Risk(name, text)


def _of_memory(info: Mapping[str, Any]) -> Iterator[Risk]:
    limit = info.get("maxmemory") or info.get("total_system_memory") or 0
    if limit > 0 and info.get("used_memory", 0) > FULL_FRACTION * limit:
        yield Risk(
            "memory",
            f"its memory is {info['used_memory'] / limit:.0%} full: soon it takes neither jobs nor answers; "
            "add workers or memory",
        )


def _appendfsync(redis: "Redis") -> str | None:
    """None where it cannot be known: `INFO` does not tell, and a user with a name of its own may hardly ask."""
    if (redis.get_connection_kwargs().get("username") or "default") != "default":
        return None
    with suppress(ResponseError):  # a managed Redis has no CONFIG
        for value in redis.config_get("appendfsync").values():
            return value.decode() if isinstance(value, bytes) else str(value)
    return None
