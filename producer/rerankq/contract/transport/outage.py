"""Messages whose job goes on running while the connection to Redis is gone.

kombu hands back everything it holds when a connection breaks, and the job that is still running then runs twice.
Here such a message is carried over instead: its verdict (ack, reject) is noted while there is no connection, and
the first channel that consumes again takes the message into its care, or carries out the verdict.
"""

from collections.abc import Iterable
from typing import Any

_carried: dict[str, Any] = {}


class _NoChannel:
    """Stands in for the channel of a carried message and notes what would have been sent."""

    no_ack_consumers: None = None

    def __init__(self) -> None:
        self.verdict: tuple[str, dict[str, Any]] | None = None

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: ARG002 - kombu's signature
        self.verdict = ("ack", {})

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: ARG002 - kombu's signature
        self.verdict = ("reject", {"requeue": requeue})


def carry_over(messages: Iterable[Any]) -> None:
    """Keep these messages when their connection is closed; their jobs are still running.

    A message that its channel does not hold any more is left alone.
    """
    for message in messages:
        qos = getattr(message.channel, "qos", None)
        if qos is not None and qos.let_go(message.delivery_tag):
            message.channel = _NoChannel()
            _carried[message.delivery_tag] = message


def adopt_carried(channel: Any) -> None:
    """Hold the carried messages on `channel` from now on, and send what was decided in the meantime."""
    while _carried:
        tag, message = _carried.popitem()
        verdict = message.channel.verdict
        message.channel = channel
        channel.qos.append(message, tag)
        if verdict is not None:
            name, arguments = verdict
            getattr(channel.qos, name)(tag, **arguments)
