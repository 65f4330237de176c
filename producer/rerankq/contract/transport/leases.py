"""Messages held by workers: fetched under a lease, kept while it is renewed, put back when it runs out.

Works on a redis client and names; knows no kombu channel, no worker and no task.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis

from rerankq.contract.keys import (
    BELL_SUFFIX,
    SEPARATORS,
    TOTALS,
    bell_of,
    open_jobs,
    pauses_of,
    priority_lists,
)
from rerankq.contract.keys import HELD as HELD_KEY
from rerankq.contract.transport.open_jobs import OpenJob
from rerankq.contract.transport.scripts import (
    ACK,
    FETCH,
    GATHER,
    HAND_ON,
    HELD,
    PUT_BACK,
    RENEW,
    SWEEP,
    WAITING,
    RedisArgument,
    execute,
)

SWEEP_AT_MOST = 100  # a sweep of many dead workers must not block Redis for long
GATHER_AT_MOST = 500


class ListToFetch(NamedTuple):
    """A list to fetch from."""

    queue: str
    """What its consumer calls it."""
    name: str
    """The list's own, without a `global_keyprefix`."""
    list_key: str
    is_acknowledged: bool


class Held(NamedTuple):
    """A message whose lease ran out."""

    tag: str
    list_key: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Leases:
    """Where held messages are kept, and for how long without a sign of life."""

    held_key: str
    leases_key: str
    delayed_key: str
    paused_key: str
    lease_seconds: float
    backoff_seconds: Sequence[float]
    totals_key: str = TOTALS

    def fetch_arguments(
        self, tag: str, sources: Sequence[ListToFetch]
    ) -> tuple[list[str], list[RedisArgument]]:
        """Keys and arguments of `FETCH` for the first message of `sources`, held under `tag`.

        The caller chooses the tag, so that a reply it never got to read is a lease that runs out, not a loss.
        """
        bells = dict.fromkeys(bell_of(source.list_key) for source in sources)
        lists = [source.list_key for source in sources]
        flags = [int(source.is_acknowledged) for source in sources]
        pauses = [field for source in sources for field in pauses_of(source.name)]
        keys = [self.held_key, self.leases_key, self.paused_key, self.totals_key, *lists, *bells]
        return keys, [tag, self.lease_seconds, len(sources), *flags, *pauses]

    def fetch(
        self, client: redis.Redis, tag: str, sources: Sequence[ListToFetch]
    ) -> tuple[ListToFetch, bytes] | None:
        reply = FETCH(client, *self.fetch_arguments(tag, sources))
        return fetched(reply, sources)

    def renew(self, client: redis.Redis, tags: Iterable[str]) -> int:
        """Extend the leases of `tags`; how many of them are still ours."""
        return RENEW(client, [self.leases_key], [self.lease_seconds, *tags])

    def ack(
        self, client: redis.Redis, tag: str, payload_key: str | None = None, job: OpenJob | None = None
    ) -> bool:
        """Drop the message and its payload, and close its job. False when the lease had gone to somebody else."""
        return bool(ACK(client, *self.ack_arguments(tag, payload_key, job)))

    def ack_arguments(
        self, tag: str, payload_key: str | None, job: OpenJob | None
    ) -> tuple[list[str], list[RedisArgument]]:
        """Keys and arguments of `ACK`."""
        keys = [self.held_key, self.leases_key]
        keys += [job.index_key] if job else []
        keys += [payload_key] if payload_key else []
        return keys, [tag, *(job[1:] if job else ())]

    def put_back(
        self,
        client: redis.Redis,
        tag: str,
        list_key: str,
        message: str | bytes,
        *,
        delay_seconds: float = 0.0,
        only_if_expired: bool = False,
    ) -> bool:
        """Return a held message to the front of its list. False when somebody else was quicker."""
        keys = [self.held_key, self.leases_key, self.delayed_key, list_key, bell_of(list_key)]
        return bool(PUT_BACK(client, keys, [tag, message, delay_seconds, int(only_if_expired)]))

    def hand_on(
        self,
        client: redis.Redis,
        tag: str,
        list_key: str,
        message: str,
        *,
        record: str | None = None,
        job: OpenJob | None = None,
    ) -> bool:
        """Put a held message at the end of another list. False when somebody else has it.

        Args:
            record: of its job, where its sender keeps one and would miss the message.
            job: as it was open until now.
        """
        keys = [self.held_key, self.leases_key, list_key, bell_of(list_key)]
        arguments: list[RedisArgument] = [tag, message]
        if job and record:
            keys += [job.index_key, open_jobs(list_key), record]
            arguments += job[1:]
        return bool(HAND_ON(client, keys, arguments))

    def sweep(self, client: redis.Redis) -> list[Held]:
        """Release the delayed messages that are due; return those whose lease ran out, a hundred at most."""
        keys = [self.held_key, self.leases_key, self.delayed_key]
        reply = SWEEP(client, keys, [SWEEP_AT_MOST, BELL_SUFFIX, self.lease_seconds])
        return [_held(tag, value) for tag, value in zip(reply[::2], reply[1::2], strict=True)]

    def gather(self, client: redis.Redis, list_keys: Sequence[str]) -> None:
        """Move what another client's kombu put on lists for its priorities to the end of the list that is read."""
        for list_key in list_keys:
            unread = [key for key in priority_lists(list_key) if key not in list_keys]
            GATHER(client, [list_key, bell_of(list_key), *unread], [GATHER_AT_MOST])

    def probe(self, client: redis.Redis) -> None:
        """Raise what Redis would answer to a write: a replica, say, still answers to reads."""
        execute(client, "ZREM", self.leases_key, "")

    def delay_before(self, delivery: int) -> float:
        """Seconds to wait before delivery number `delivery` (2 is the first repetition)."""
        if not self.backoff_seconds:
            return 0.0
        return self.backoff_seconds[min(delivery - 2, len(self.backoff_seconds) - 1)]


def held_by_list(client: redis.Redis, held_key: str = HELD_KEY) -> dict[str, int]:
    """How many messages workers hold, by the list that they came from."""
    reply = HELD(client, [held_key], [])
    return {list_key.decode(): count for list_key, count in zip(reply[::2], reply[1::2], strict=True)}


def waiting_on(client: redis.Redis, queues: Sequence[str]) -> list[int]:
    """How many messages wait on each queue, those of any priority included."""
    return WAITING(client, queues, SEPARATORS)


def fetched(reply: Any, sources: Sequence[ListToFetch]) -> tuple[ListToFetch, bytes] | None:
    """What a reply of `FETCH` says: the list and its message, or None when all were empty."""
    return (sources[reply[0] - 1], reply[1]) if reply else None


def _held(tag: bytes, value: bytes) -> Held:
    list_key, _, raw = value.partition(b"\n")
    return Held(tag.decode(), list_key.decode(), raw)
