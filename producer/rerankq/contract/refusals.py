"""What a Redis refuses: by which word, and what helps.

A refusal is an answer: a Redis that gives one is there. Of its text nothing is told, for it may quote what was sent.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from redis import exceptions

_WHICH = (
    "RERANKQ_BROKER_URL gives Redis, user, password and database, RERANKQ_RESULT_URL those of the answers"
)
_NO_USER = "wrong user or password, or none"
_CURES: Mapping[str, str] = {
    "NOPERM": "this user may not do that: take one that may (an administrator, for what operators do), or write the "
    "rights of this release anew (deploy/redis/users.acl, `ACL LOAD`)",
    "OOM": "its memory is full: workers free it as they answer, and `maxmemory` gives it more",
    "READONLY": "it is a replica: name the primary, or sentinels, which tell where that is",
    "LOADING": "it reads its data after a start: try again in a moment",
    "MISCONF": "it cannot write to its disk: free space there (its log says what failed)",
    "NOREPLICAS": "too few replicas are in touch with it: bring them back, or lower `min-replicas-to-write`",
    "MASTERDOWN": "it is a replica that has lost its primary: name that, or sentinels",
    "BUSY": "a script of somebody's runs too long in it: wait, or `SCRIPT KILL`",
    "CLUSTERDOWN": "it is part of a cluster, which is no place for a queue: take one Redis, or sentinels",
    "MOVED": "it is part of a cluster, which is no place for a queue: take one Redis, or sentinels",
    "CROSSSLOT": "it is part of a cluster, which is no place for a queue: take one Redis, or sentinels",
    "WRONGTYPE": "something else lies under a key of ours: find who wrote it, and delete it",
}
_BY_TYPE: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.MovedError, "MOVED"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
)
"""Those whose word redis-py takes off the text."""
_BY_TEXT: Mapping[str, tuple[str, str]] = {
    "DB index": ("no such database", f"most have 0 to 15; {_WHICH}"),
    "max number of clients": ("too many clients", "end some, or raise its `maxclients`"),
    "user executing the script can't": ("NOPERM", _CURES["NOPERM"]),  # a right that one of our scripts lacks
    "unknown command": (
        "a command it does not know",
        "Redis 6.2 or later, with no command switched off, is needed",
    ),
}
_CODE = re.compile(r"\b[A-Z]{3,}\b")  # OOM, which a script of ours met, stands within the text of Redis 6


class Refusal(NamedTuple):
    """What a Redis answered in place of what it was asked for."""

    what: str
    """Its word for it (`NOPERM`), or ours."""
    cure: str


def refusal_in(error: Exception) -> Refusal | None:
    """The refusal that redis-py raised, whichever its version; None where Redis did not answer."""
    if isinstance(error, exceptions.AuthenticationError):
        return Refusal(_NO_USER, _WHICH)
    text = str(error)
    for said, (what, cure) in _BY_TEXT.items():
        if said in text and isinstance(error, exceptions.RedisError):
            return Refusal(what, cure)
    code = next((code for kind, code in _BY_TYPE if isinstance(error, kind)), None)
    if code is None and not isinstance(error, exceptions.ResponseError):
        return None
    said = f"{getattr(error, 'status_code', None) or ''} {text}".strip()
    known = code or next((word for word in _CODE.findall(said) if word in _CURES), None)
    if known is not None:
        return Refusal(known, _CURES[known])
    first = _CODE.match(said)
    return Refusal(first[0] if first and first[0] != "ERR" else type(error).__name__, _WHICH)
