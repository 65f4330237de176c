"""Where a `sentinel://` URL leads: the sentinels to ask, and the master to ask them for.

    sentinel://:password@host-a:26379/0;sentinel://:password@host-b:26379/0?master_name=rerankq

Knows URLs only. Celery and kombu take the master's name from an option of theirs, never from the URL; ours carries it,
so that broker and answers may each have their own.
"""

from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

SCHEME = "sentinel://"
DEFAULT_MASTER = "mymaster"  # Sentinel's own
DEFAULT_PORT = 26379


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """A `sentinel://` URL taken apart."""

    sentinels: list[tuple[str, int]]
    master_name: str
    login: dict[str, Any]
    """db, and username and password where given: those of the master, in redis-py's terms."""
    without_name: str
    """The URL as Celery reads it."""


def is_sentinel(url: str) -> bool:
    """Whether a URL names sentinels and not a Redis."""
    return url.startswith(SCHEME)


def read_sentinel_url(url: str) -> SentinelUrl:
    """Take a `sentinel://` URL apart.

    Raises:
        ValueError: something in it is none of the parts above.
    """
    parts = [urlsplit(part) for part in url.split(";")]
    queries = {name: value for part in parts for name, value in parse_qsl(part.query)}
    master_name = queries.pop("master_name", DEFAULT_MASTER)
    if queries or any(f"{part.scheme}://" != SCHEME or not part.hostname for part in parts):
        raise ValueError(
            "expected sentinel://host:port/db, several joined by `;`, with ?master_name=… at most"
        )
    first = parts[0]
    database = first.path.strip("/") or "0"
    if not database.isdecimal():
        raise ValueError(f"expected the number of a database after the host, got {database!r}")
    credentials = {"username": first.username, "password": first.password}
    return SentinelUrl(
        sentinels=[(str(part.hostname), _port_of(part)) for part in parts],
        master_name=master_name,
        login={"db": int(database)} | {name: unquote(text) for name, text in credentials.items() if text},
        without_name=";".join(part._replace(query="").geturl() for part in parts),
    )


def _port_of(part: SplitResult) -> int:
    try:
        return part.port or DEFAULT_PORT
    except ValueError:  # its own words would quote what may be a password
        raise ValueError("expected the port of a sentinel to be a number") from None
