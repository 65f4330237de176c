"""Connections that use this transport. Everybody else's `redis://` in the same process stays kombu's own.

By class rather than by a name among kombu's transports: what a URL, a failover or a clone names is read as before.
"""

from typing import Any

import kombu
from celery.app.amqp import AMQP
from kombu.connection import Connection, ConnectionPool, PooledConnection
from kombu.utils.collections import HashedSeq

from rerankq.contract.transport.channel import LeasedTransport, SentinelTransport

KNOWN_KOMBU = "5.7."


class UnknownKombu(RuntimeError):
    """The installed kombu is one whose internals this transport has not been tested against."""


class LeasedConnection(Connection):
    """A connection to redis://, rediss://, redis+socket:// or sentinel:// that loses no message."""

    def get_transport_cls(self) -> Any:
        """Ours, for whatever kind of Redis."""
        return SentinelTransport if self.transport_cls == "sentinel" else LeasedTransport

    def __eqhash__(self) -> Any:
        """Never that of another application's connection: kombu's pools are shared by all of a process."""
        return HashedSeq(LeasedConnection.__qualname__, *super().__eqhash__())

    def Pool(self, limit: int | None = None, **more: Any) -> ConnectionPool:  # noqa: N802 - kombu's
        """Connections like this one."""
        return _Pool(self, limit, **more)


class _PooledConnection(PooledConnection, LeasedConnection):
    """kombu makes its pools of its own class, whatever they are asked of."""


class _Pool(ConnectionPool):
    def new(self) -> _PooledConnection:
        return _PooledConnection(self, **dict(self.connection._info(resolve=False)))


class LeasedAMQP(AMQP):
    """For `Celery(amqp=…)`."""

    Connection = LeasedConnection


def refuse_unknown_kombu() -> None:
    """Refuse to stand on internals that may have changed.

    Raises:
        UnknownKombu: another kombu than 5.7 is installed.
    """
    if not kombu.__version__.startswith(KNOWN_KOMBU):
        raise UnknownKombu(
            f"expected kombu {KNOWN_KOMBU}x, got {kombu.__version__}; the transport stands on its internals: "
            f"pip install 'kombu>=5.7,<5.8'"
        )
