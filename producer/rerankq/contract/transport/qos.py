"""What a channel holds: renewed, acknowledged, handed back; and whether it may take more.

Replaces the half of kombu's Redis QoS that writes; the half that counts what is in flight is kombu's own.
"""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import redis
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from rerankq.contract.errors import RerankError
from rerankq.contract.transport.dead_letters import DeadLetter, bury
from rerankq.contract.transport.envelope import (
    PUSHED,
    Envelope,
    Undecodable,
    as_came,
    deliveries,
    mark_redelivered,
    open_envelope,
    payload_key,
    record_key,
    seal_envelope,
)
from rerankq.contract.transport.hooks import hooks
from rerankq.contract.transport.leases import Held
from rerankq.contract.transport.open_jobs import OpenJob, end_vanished, open_job
from rerankq.contract.transport.outage import adopt_carried, in_short, is_passing, outage, send_later
from rerankq.contract.transport.scripts import ACK

logger = logging.getLogger(__name__)


class QoS(kombu_redis.QoS):
    """The messages a channel holds under leases."""

    channel: Any
    """A `LeasedChannel`."""
    _delivered: dict[str, Any]
    _dirty: set[str]
    _swept_at = float("-inf")
    _can_sweep = True
    _in_touch_since = float("-inf")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._held_nowhere: set[str] = set()  # deliveries of a fanout, which lie on no list
        self._leaving: dict[str, Any] = {}
        """Messages whose ack goes with the next fetch, or went and has no reply yet."""

    def can_consume(self) -> bool:
        is_ready = hooks.is_ready is None or hooks.is_ready()
        if self.channel.acknowledges and not (is_ready and outage.is_time_to_ask()):
            return False
        return super().can_consume()

    def append(self, message: Any, delivery_tag: str) -> None:
        """Remember a message that `FETCH` has already put under a lease."""
        if "queue" in message.delivery_info:
            virtual.QoS.append(self, message, delivery_tag)
        else:
            self._held_nowhere.add(delivery_tag)

    def holds(self, delivery_tag: str) -> bool:
        """Whether a message is held here, as tasks are until they end; control messages and events are not."""
        return delivery_tag in self._delivered

    def ack(self, delivery_tag: str) -> None:
        if self._is_held_nowhere(delivery_tag):
            return
        if delivery_tag in self._delivered and self.channel.acks_with_fetch:
            self._leaving[delivery_tag] = self._delivered.pop(delivery_tag)
            return
        message = self._delivered.get(delivery_tag)
        with self._or_later(delivery_tag, "ack"):
            self._drop(delivery_tag, *self._gone_with(message))

    @property
    def leaving(self) -> list[str]:
        """The messages whose acks go with the next fetch; while it is on its way, those whose acks went with it."""
        return list(self._leaving)

    def acks(self) -> list[list[Any]]:
        """The commands that acknowledge what leaves."""
        leases = self.channel.leases
        return [
            ACK.by_hash(*leases.ack_arguments(tag, *self._gone_with(message)))
            for tag, message in self._leaving.items()
        ]

    def note_acked(self, tag: str, is_ours: Any) -> None:
        """Redis has replied to an ack that went with a fetch."""
        del self._leaving[tag]
        if not is_ours:
            self._tell_fenced(tag, "ack")

    def send_acks(self) -> None:
        """Acknowledge what leaves by itself: no fetch goes now."""
        for tag in self.leaving:
            self.send_ack(tag)

    def send_ack(self, tag: str) -> None:
        """Acknowledge one of those that leave by itself."""
        message = self._delivered[tag] = self._leaving.pop(tag)
        with self._or_later(tag, "ack"):
            self._drop(tag, *self._gone_with(message))

    def carry_acks(self) -> None:
        """Send the acks by the next connection: nobody knows whether Redis has had them."""
        for tag in self.leaving:
            self._delivered[tag] = self._leaving.pop(tag)
            send_later(self, tag, "ack", {})

    def _gone_with(self, message: Any) -> tuple[str | None, OpenJob | None]:
        """The payload and the open job that go with a message."""
        if message is None:
            return None, None
        return payload_key(message.headers), open_job(message._raw, self.channel.list_key_of(message._raw))

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Give up a message: for another try, counted, or for good (its payload stays for a retry)."""
        if self._is_held_nowhere(delivery_tag):
            return
        with self._or_later(delivery_tag, "reject", requeue=requeue):
            if not requeue:
                self._drop(delivery_tag)
                return
            if not self._put_back(delivery_tag, counted=True):
                self._tell_fenced(delivery_tag, "reject")
            virtual.QoS.ack(self, delivery_tag)

    def set_aside(self, delivery_tag: str, letter: DeadLetter, untold: RerankError | None = None) -> None:
        """Move a message to the dead letters; its payload stays for a retry."""
        with self._or_later(delivery_tag, "set_aside", letter=letter, untold=untold):
            headers = self._delivered[delivery_tag].headers
            if not self.bury(delivery_tag, letter, untold, headers):
                self._tell_fenced(delivery_tag, "burial")
            virtual.QoS.ack(self, delivery_tag)

    def bury(
        self, tag: str, letter: DeadLetter, untold: RerankError | None, headers: Envelope | None
    ) -> bool:
        """Move a message under this lease to the dead letters. False when another worker has it by now."""
        channel = self.channel
        with channel.conn_or_acquire() as client:
            is_ours = bury(
                client,
                channel.leases,
                tag,
                letter,
                untold=untold,
                headers=headers,
                ttl_seconds=channel.dead_letter_ttl_seconds,
                prefix=channel.global_keyprefix,
            )
        if is_ours and hooks.note_dead:
            hooks.note_dead(letter, headers or {})
        if is_ours and untold and hooks.tell:
            hooks.tell(letter.id, untold)
        return is_ours

    def _is_held_nowhere(self, delivery_tag: str) -> bool:
        is_so = delivery_tag in self._held_nowhere
        self._held_nowhere.discard(delivery_tag)
        return is_so

    def let_go(self, delivery_tag: str) -> Any:
        """Forget a message without touching its lease; the message, or None if it is not held here."""
        return None if delivery_tag in self._dirty else self._delivered.pop(delivery_tag, None)

    def hand_back(self, delivery_tag: str, delay_seconds: float = 0.0) -> None:
        """Return a message uncounted, at once or after a while: the stop of a worker is no attempt."""
        with self._or_later(delivery_tag, "hand_back", delay_seconds=delay_seconds):
            self._put_back(delivery_tag, counted=False, delay_seconds=delay_seconds)
            virtual.QoS.ack(self, delivery_tag)

    def hand_on(self, delivery_tag: str, queue: str) -> None:
        """Put a message on another list, behind what waits there, uncounted: it was not for this worker."""
        with self._or_later(delivery_tag, "hand_on", queue=queue):
            raw, channel = self._delivered[delivery_tag]._raw, self.channel
            envelope = {name: part for name, part in raw.items() if name != PUSHED}
            with channel.conn_or_acquire() as client:
                is_ours = channel.leases.hand_on(
                    client,
                    delivery_tag,
                    channel.global_keyprefix + queue,
                    seal_envelope(as_came(envelope, "handed_on")),
                    record=record_key(raw["headers"]),
                    job=open_job(raw, channel.list_key_of(raw)),
                )
            if not is_ours:
                self._tell_fenced(delivery_tag, "handing on")
            virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> Any:  # noqa: ARG002 - kombu's signature
        """Return everything held, uncounted; the base class calls this at shutdown."""
        self._flush()
        for tag in list(self._delivered):
            self._put_back(tag, counted=False)
        self._delivered.clear()
        return []

    def renew(self) -> None:
        """Keep the leases of everything held, and of a fetch whose reply is not read yet."""
        tags = [tag for tag in list(self._delivered) if tag not in self._dirty]
        if self.channel.fetch_tag:
            tags.append(self.channel.fetch_tag)
        if tags:
            with self.channel.conn_or_acquire() as client:
                self.channel.leases.renew(client, tags)
        if self.channel.acknowledges:
            adopt_carried(self.channel)

    def restore_visible(self, *_: Any, **__: Any) -> None:
        """Put back what dead workers held and end what vanished; kombu calls this at its own pace, so we keep ours."""
        if monotonic() - self._swept_at < self.channel.unacked_restore_interval / 2:
            return
        try:
            with self.channel.conn_or_acquire() as client:
                expired = self.channel.leases.sweep(client)
                if self._may_judge():
                    for held in expired:
                        self._put_back_expired(client, held)
                self.channel.leases.gather(client, self.channel.held_lists)
                for list_key in self.channel.held_lists:
                    end_vanished(client, self.channel.leases, list_key, is_idle=not self._delivered)
        except redis.ResponseError as error:
            if self._can_sweep and not is_passing(error):
                self._can_sweep = False
                logger.warning("the messages of dead workers cannot be looked for: %s", in_short(error))
        else:
            self._can_sweep = True

    def _may_judge(self) -> bool:
        """Whether an expired lease means a dead worker: only after one lease time of unbroken contact.

        After a restart or a stall of Redis nobody has renewed anything, and everybody gets one lease time to
        come back. A gap below half a lease ends no lease, because a lease is renewed three times in its time.
        """
        now, lease_seconds = monotonic(), self.channel.leases.lease_seconds
        if now - self._swept_at > self.channel.unacked_restore_interval + lease_seconds / 2:
            self._in_touch_since = now
        self._swept_at = now
        return now - self._in_touch_since >= lease_seconds

    def _put_back_expired(self, client: Any, held: Held) -> None:
        leases = self.channel.leases
        try:
            envelope = mark_redelivered(open_envelope(held.raw), "lease_lost", counted=True)
            message, delivery = seal_envelope(envelope), deliveries(envelope["headers"])
        except Undecodable:
            message, delivery = held.raw, 2  # the next fetch sets it aside as what it is
        delay_seconds = leases.delay_before(delivery)
        if leases.put_back(
            client, held.tag, held.list_key, message, delay_seconds=delay_seconds, only_if_expired=True
        ):
            logger.warning(
                "message %s: its worker gave no sign of life for %g s; delivery %d follows in %g s",
                held.tag,
                leases.lease_seconds,
                delivery,
                delay_seconds,
            )

    def _put_back(self, delivery_tag: str, *, counted: bool, delay_seconds: float = 0.0) -> bool:
        message = self._delivered.get(delivery_tag)
        if message is None:
            return False
        leases = self.channel.leases
        cause = "attempt_lost" if counted else "handed_back"
        envelope = mark_redelivered(message._raw, cause, counted=counted)
        if counted:
            delay_seconds = leases.delay_before(deliveries(envelope["headers"]))
        with self.channel.conn_or_acquire() as client:
            return leases.put_back(
                client,
                delivery_tag,
                self.channel.list_key_of(envelope),
                seal_envelope(envelope),
                delay_seconds=delay_seconds,
            )

    def _drop(self, delivery_tag: str, payload: str | None = None, job: OpenJob | None = None) -> None:
        with self.channel.conn_or_acquire() as client:
            if not self.channel.leases.ack(client, delivery_tag, payload, job):
                self._tell_fenced(delivery_tag, "ack")
        virtual.QoS.ack(self, delivery_tag)

    @contextmanager
    def _or_later(self, delivery_tag: str, verdict: str, **arguments: Any) -> Generator[None]:
        """Note the verdict for later if Redis does not take it; nobody else would repeat it."""
        try:
            yield
        except (redis.RedisError, OSError) as error:
            if is_passing(error):
                outage.note(error)
            else:
                logger.warning(
                    "message %s: Redis did not take its %s (%s)", delivery_tag, verdict, in_short(error)
                )
            send_later(self, delivery_tag, verdict, arguments)

    def _tell_fenced(self, delivery_tag: str, verb: str) -> None:
        logger.warning(
            "message %s: its lease was gone at the %s; this worker was silent for more than %g s "
            "and another delivery may have run as well",
            delivery_tag,
            verb,
            self.channel.leases.lease_seconds,
        )
