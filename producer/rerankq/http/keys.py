"""The keys that callers show, compared in constant time, and read anew where their file has changed."""

import hmac
from collections.abc import Callable, Iterable

from starlette.requests import Request


def shown_key(request: Request) -> str:
    """The key that a request shows: as `Authorization: Bearer`, or as `Api-Key`; empty without one."""
    kind, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else request.headers.get("api-key", "")


class Keys:
    """Which keys open."""

    def __init__(self, read: Callable[[], Iterable[str]]) -> None:
        self._read = read

    def opens(self, key: str) -> bool:
        """Whether this key does; without any of ours, all do."""
        ours = [each.encode() for each in self._read()]
        matches = [
            hmac.compare_digest(each, key.encode()) for each in ours
        ]  # each is compared, whatever came of others
        return any(matches) or not ours
