"""Redis is away, full or refuses: which errors say so, one line when it begins and one when it ends, and what waits.

kombu hands back everything it holds when a connection breaks, and the job that is still running then runs twice;
and it forgets an ack that was not taken, so that a worker with one slot waits for ever. Here such a message is
carried over: the next channel that consumes takes it into its care, or sends what was decided in the meantime.
An error reply (a replica, a full disk, too few replicas) ends no worker: it asks again until it is served.
"""

import logging
import re
from collections.abc import Iterable
from time import monotonic
from typing import Any

import redis
from kombu.exceptions import OperationalError

ASK_AGAIN_SECONDS = 0.25
# KeyError is missing on purpose: kombu counts it among its connection errors, and a message without an id would then
# make the worker reconnect and fetch it again, for ever.
UNREACHABLE = (redis.ConnectionError, redis.TimeoutError, OperationalError, OSError)
# From redis-py by itself, in the text of a script's error, or as `status_code`, depending on the version of Redis.
_REFUSALS = re.compile(
    r"\b(OOM|READONLY|NOREPLICAS|MISCONF|LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|BUSY|UNBLOCKED|NOAUTH|WRONGPASS)\b"
)
_TRAIL = re.compile(r"^.*@user_script: ?\d+: ")

logger = logging.getLogger(__name__)

_carried: dict[str, Any] = {}


def is_passing(error: BaseException | None) -> bool:
    """Whether Redis is away or full or does not serve for now, so that the same call may succeed later."""
    if isinstance(error, redis.ResponseError):
        said = f"{error.status_code} {error}"
        return isinstance(error, redis.OutOfMemoryError) or _REFUSALS.search(said) is not None
    return isinstance(error, UNREACHABLE)


def in_short(error: BaseException) -> str:
    """What Redis said, without a script's own trail of two hundred characters."""
    refusal = isinstance(error, redis.ResponseError) and _REFUSALS.search(f"{error.status_code} {error}")
    said = refusal[0] if refusal else _TRAIL.sub("", str(error))[:80]
    return f"{type(error).__name__}: {said}"


class Outage:
    """Whether Redis serves this process; says when that changes, and only then."""

    def __init__(self) -> None:
        self._began_at: float | None = None
        self._ask_again_at = float("-inf")

    def note(self, error: BaseException) -> None:
        """Redis did not serve us."""
        if self._began_at is None:
            self._began_at = monotonic()
            logger.warning("Redis does not serve us (%s); waiting until it does", in_short(error))

    def pause(self) -> None:
        """Ask it for nothing for a moment."""
        self._ask_again_at = monotonic() + ASK_AGAIN_SECONDS

    def is_over(self) -> bool:
        """Redis served us; True when it had not before."""
        if self._began_at is None:
            return False
        logger.warning("Redis serves us again, after %.1f s", monotonic() - self._began_at)
        self._began_at, self._ask_again_at = None, float("-inf")
        return True

    def is_time_to_ask(self) -> bool:
        """Whether to ask it for anything now."""
        return monotonic() >= self._ask_again_at


outage = Outage()
"""Of the broker; a process has one."""


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

    def hand_on(self, delivery_tag: str, queue: str) -> None:  # noqa: ARG002 - the channel's
        self.verdict = ("hand_on", {"queue": queue})

    def set_aside(self, delivery_tag: str, letter: Any, untold: Any = None) -> None:  # noqa: ARG002 - the channel's
        self.verdict = ("set_aside", {"letter": letter, "untold": untold})


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
    """Hold the carried messages on `channel` from now on, and send what is due, as long as Redis takes it."""
    for tag in list(_carried):
        message = _carried.pop(tag)
        verdict = message.channel.verdict
        message.channel = channel
        channel.qos.append(message, tag)
        if verdict is not None:
            name, arguments = verdict
            getattr(channel.qos, name)(tag, **arguments)
        if tag in _carried:
            return


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
