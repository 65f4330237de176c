"""Jobs whose message was put on a list and is not acknowledged yet; finds those whose message has vanished.

The index of a list's open jobs is kept by the scripts that push and acknowledge, so it is never ahead of the list nor
behind it. Lists are first in, first out, and what comes back goes to the front: an open job that was pushed before
the message that is next to be taken, and is neither held nor delayed, is nowhere. So a look at the front of a list
and at the few held messages finds what a purge, a `DEL`, a rename or an eviction took, however long the list is.
"""

import logging
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

import redis

from rerankq.contract import keys
from rerankq.contract.transport.envelope import PUSHED, Envelope, job_id, record_key
from rerankq.contract.transport.hooks import hooks
from rerankq.contract.transport.outage import in_short
from rerankq.contract.transport.scripts import CLOSE, MISSING, execute

if TYPE_CHECKING:
    from rerankq.contract.transport.leases import Leases

LOOK_PERIOD_SECONDS = 2.0  # of all workers together
LOOK_FOR_AT_MOST = 500
ENDING_SECONDS = 0.5  # of a look, 80 jobs or so; the main process that ends them also renews leases
ENDING_SECONDS_WHEN_IDLE = 1.5

logger = logging.getLogger(__name__)


class OpenJob(NamedTuple):
    """A job that is not acknowledged yet, and when its message was put on its list."""

    index_key: str
    job_id: str
    pushed: int
    """Microseconds since 1970, later than those of every open job of the list before it."""


def open_job(envelope: Envelope, list_key: str) -> OpenJob | None:
    """The job of a message that would be missed; None for one of any other sender."""
    pushed, name = envelope.get(PUSHED), job_id(envelope)
    if not isinstance(pushed, int) or name is None or record_key(envelope["headers"]) is None:
        return None
    return OpenJob(keys.open_jobs(list_key), name, pushed)


@cache
def _tell_once(text: str) -> None:
    logger.warning(text)


def end_vanished(client: redis.Redis, leases: "Leases", list_key: str, *, is_idle: bool = False) -> None:
    """End the open jobs of a list whose message is nowhere; as many as half a second allows.

    Args:
        is_idle: nothing is held here, so that there is no lease to renew and more time.
    """
    if hooks.end_vanished is None:
        return
    give_up_at = monotonic() + (ENDING_SECONDS_WHEN_IDLE if is_idle else ENDING_SECONDS)
    for job in _missing(client, leases, list_key):
        if monotonic() > give_up_at:
            return
        # Another worker may have ended it since, and its sender have sent it again.
        is_open = execute(client, "ZSCORE", job.index_key, job.job_id) == job.pushed
        if is_open and hooks.end_vanished(job.job_id):
            CLOSE(client, [job.index_key], [job.job_id, job.pushed])


def _missing(client: redis.Redis, leases: "Leases", list_key: str) -> list[OpenJob]:
    index_key = keys.open_jobs(list_key)
    touched = [list_key, index_key, keys.looked(list_key), leases.held_key, leases.delayed_key]
    try:
        found: Any = MISSING(client, touched, [int(LOOK_PERIOD_SECONDS * 1000), LOOK_FOR_AT_MOST])
    except redis.ResponseError as error:  # a user without the right to look
        _tell_once(f"messages that vanish from {list_key} are not looked for: {in_short(error)}")
        return []
    jobs = zip(found[::2], found[1::2], strict=True)
    return [OpenJob(index_key, name.decode(), int(pushed)) for name, pushed in jobs]
