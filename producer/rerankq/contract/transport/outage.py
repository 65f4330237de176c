"""Messages whose job goes on, or whose verdict is due, while Redis cannot be reached.

kombu hands back everything it holds when a connection breaks, and the job that is still running then runs twice;
and it forgets an ack that was not taken, so that a worker with one slot waits for ever. Here such a message is
carried over: the next channel that consumes takes it into its care, or sends what was decided in the meantime.
"""

from collections.abc import Iterable
from typing import Any

_carried: dict[str, Any] = {}


class _NoChannel:
    """Stands in for the channel of a carried message and notes what is to be sent."""

    no_ack_consumers: None = None

    def __init__(self) -> None:
        self.verdict: tuple[str, dict[str, Any]] | None = None

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: ARG002 - kombu's signature
        self.verdict = ("ack", {})

    def basic_reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: ARG002 - kombu's signature
        self.verdict = ("reject", {"requeue": requeue})

    def hand_back(self, delivery_tag: str, delay_seconds: float = 0.0) -> None:  # noqa: ARG002 - the channel's
        self.verdict = ("hand_back", {"delay_seconds": delay_seconds})


def carry_over(messages: Iterable[Any]) -> None:
    """Keep these messages when their connection is closed; their jobs are still running.

    A message that its channel does not hold any more is left alone.
    """
    _carry_all(messages, None)


def hand_back_later(messages: Iterable[Any]) -> None:
    """Return these messages, uncounted, as soon as there is a connection: nobody runs their jobs."""
    _carry_all(messages, ("hand_back", {}))


def send_later(qos: Any, delivery_tag: str, verdict: str, arguments: dict[str, Any]) -> None:
    """Note a verdict that Redis did not take: `verdict` is a method of the QoS, to be called again."""
    _carry(qos, delivery_tag, (verdict, arguments))


def adopt_carried(channel: Any) -> None:
    """Hold the carried messages on `channel` from now on, and send what is due."""
    for tag in list(_carried):
        message = _carried.pop(tag)
        verdict = message.channel.verdict
        message.channel = channel
        channel.qos.append(message, tag)
        if verdict is not None:
            name, arguments = verdict
            getattr(channel.qos, name)(tag, **arguments)


def _carry_all(messages: Iterable[Any], verdict: tuple[str, dict[str, Any]] | None) -> None:
    for message in messages:
        qos = getattr(message.channel, "qos", None)
        if qos is not None:
            _carry(qos, message.delivery_tag, verdict)


def _carry(qos: Any, delivery_tag: str, verdict: tuple[str, dict[str, Any]] | None) -> None:
    message = qos.let_go(delivery_tag)
    if message is not None:
        message.channel = _NoChannel()
        message.channel.verdict = verdict
        _carried[delivery_tag] = message
