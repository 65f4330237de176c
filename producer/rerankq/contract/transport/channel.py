"""kombu's Redis channel and transport, with the moment in which a message existed nowhere taken out.

kombu pops a message and writes down only afterwards that it holds it; here both are one script. Everything
that is not fetch, hold or push (exchanges, fanout, TLS, Sentinel, reconnecting) is kombu's own.
"""

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import count
from queue import Empty
from time import monotonic
from typing import Any, Literal

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.json import dumps
from kombu.utils.uuid import uuid
from redis.exceptions import NoScriptError, ResponseError

from rerankq.contract import keys
from rerankq.contract.errors import RerankError
from rerankq.contract.keys import SEPARATORS, bell_of, open_jobs
from rerankq.contract.transport.dead_letters import (
    DEAD_LETTER_TTL_SECONDS,
    DeadLetter,
    given_up,
    letter_for,
    unusable,
)
from rerankq.contract.transport.envelope import (
    Envelope,
    Undecodable,
    deliveries,
    job_id,
    open_envelope,
    record_key,
)
from rerankq.contract.transport.hooks import hooks
from rerankq.contract.transport.leases import Leases, ListToFetch, fetched
from rerankq.contract.transport.outage import adopt_carried, outage
from rerankq.contract.transport.poller import RENEWALS_PER_LEASE, Poller
from rerankq.contract.transport.qos import QoS
from rerankq.contract.transport.scripts import FETCH, PUSH

BELL_WAIT_SECONDS = 1  # also how long a message from a client that rings no bell can wait
OUR_OPTIONS = ("delayed_key", "backoff_seconds", "dead_letter_ttl_seconds", "max_deliveries")

logger = logging.getLogger(__name__)


class LeasedMessage(virtual.Message):
    """A message under a lease, with the three ends that kombu's has not."""

    channel: Any

    def hand_back(self, delay_seconds: float = 0.0) -> None:
        """Return it uncounted, at once or after a while."""
        self.channel.hand_back(self.delivery_tag, delay_seconds)
        self._state = "REQUEUED"

    def hand_on(self, queue: str) -> None:
        """Put it on another list, behind what waits there, uncounted."""
        self.channel.hand_on(self.delivery_tag, queue)
        self._state = "REQUEUED"

    def set_aside(self, letter: DeadLetter, untold: RerankError | None = None) -> None:
        """Move it to the dead letters; `untold` is what its caller must still be told."""
        self.channel.set_aside(self.delivery_tag, letter, untold)
        self._state = "REJECTED"


class LeasedChannel(kombu_redis.Channel):
    """A channel whose messages are held by leases."""

    Message = LeasedMessage
    QoS = QoS

    unacked_key = keys.HELD
    unacked_index_key = keys.LEASES
    delayed_key = keys.DELAYED
    visibility_timeout = 15
    unacked_restore_interval = 2
    backoff_seconds: Sequence[float] = (0.0, 1.0)
    dead_letter_ttl_seconds = DEAD_LETTER_TTL_SECONDS
    max_deliveries = 3
    fetch_tag: str | None = None

    from_transport_options = (*kombu_redis.Channel.from_transport_options, *OUR_OPTIONS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._unacknowledged_queues: set[str] = set()
        self._sources: list[ListToFetch] = []
        self._fetches = count(1)
        self._last_fetch: dict[str, int] = {}
        """By list, which of our fetches it gave a message last."""
        self._queues_are_empty = False
        self._fetch_in_full = False
        self._any_client: Any = None
        super().__init__(*args, **kwargs)
        self.leases = Leases(
            held_key=self._named(self.unacked_key),
            leases_key=self._named(self.unacked_index_key),
            delayed_key=self._named(self.delayed_key),
            paused_key=self._named(keys.PAUSED),
            lease_seconds=self.visibility_timeout,
            backoff_seconds=self.backoff_seconds,
            totals_key=self._named(keys.TOTALS),
        )

    @property
    def acknowledges(self) -> bool:
        """Whether a message taken here is held until it is acknowledged, as tasks are and replies are not."""
        return any(queue not in self._unacknowledged_queues for queue in self.active_queues)

    @property
    def held_lists(self) -> list[str]:
        """The lists whose messages are held here until they are acknowledged."""
        sources = self._sources_of(list(self.active_queues))
        return [source.list_key for source in sources if source.is_acknowledged]

    @property
    def _own_qos(self) -> QoS:
        """kombu's `qos`, by its own type."""
        qos: Any = self.qos
        return qos

    @property
    def acks_with_fetch(self) -> bool:
        """Whether an ack may wait until this turn of the event loop ends, and go in one trip with the next fetch."""
        will_fetch = not (self._in_poll or self._queues_are_empty)
        return will_fetch and self.connection.cycle.has_loop and self.acknowledges

    def list_key_of(self, envelope: Envelope) -> str:
        """The list that this message came from."""
        queue = envelope["properties"]["delivery_info"]["queue"]
        return self._named(self._q_for_pri(queue, self._get_message_priority(envelope)))

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Generator[Any]:
        """A client of this channel's pool, made once: redis-py takes longer to make one than to ask something."""
        if client is None:
            if self._any_client is None or self._any_client.connection_pool is not self.pool:
                self._any_client = self._create_client()
            client = self._any_client
        yield client

    def close(self) -> None:
        if not self._in_poll:
            self._own_qos.send_acks()
        super().close()

    # -- consuming

    def basic_consume(self, queue: str, no_ack: bool = False, *args: Any, **kwargs: Any) -> Any:
        if no_ack:
            self._unacknowledged_queues.add(queue)
        else:
            self._unacknowledged_queues.discard(queue)
        self._queues_are_empty = False
        consuming = super().basic_consume(queue, no_ack, *args, **kwargs)
        if self.acknowledges:
            adopt_carried(self)
        return consuming

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        if no_ack:
            return super().basic_get(queue, no_ack, **kwargs)
        tag = uuid()
        with self.conn_or_acquire() as client:
            found = self.leases.fetch(client, tag, self._sources_of([queue]))
            self._maybe_update_queues_expire(client, queue)
        delivery = self._delivery(*found, tag) if found else None
        if delivery is None:
            return None
        message = self.Message(delivery, channel=self)
        self.qos.append(message, tag)
        return message

    def _brpop_start(self, timeout: float | None = None) -> None:  # noqa: ARG002 - kombu's signature
        """Ask for the next message, or wait for a bell if the last answer was that there is none."""
        self._sources = self._sources_of(self._queue_cycle.consume(len(self.active_queues)))
        if not self._sources:
            return
        connection = self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        if self._queues_are_empty:
            self._own_qos.send_acks()
            bells = dict.fromkeys(bell_of(source.list_key) for source in self._sources)
            connection.send_command("BRPOP", *bells, BELL_WAIT_SECONDS)
        else:
            commands = [*self._own_qos.acks(), self._fetch_command()]
            connection.send_packed_command(connection.pack_commands(commands))

    def _fetch_command(self) -> list[Any]:
        self.fetch_tag = tag = uuid()
        keys, arguments = self.leases.fetch_arguments(tag, self._sources)
        return FETCH.in_full(keys, arguments) if self._fetch_in_full else FETCH.by_hash(keys, arguments)

    def _brpop_read(self, **options: Any) -> Literal[True]:
        """Read what `_brpop_start` asked for and deliver it."""
        tag, self.fetch_tag = self.fetch_tag, None
        try:
            self._read_acks()
            reply = self._read_reply(**options)
            if tag is None:
                self._queues_are_empty = False  # rung, or waited long enough to look again
                raise Empty
            found = fetched(reply, self._sources)
            if not found:
                self._queues_are_empty = True
                raise Empty
            source = found[0]
            self._queue_cycle.rotate(source.queue)
            self._last_fetch[source.name] = next(self._fetches)
            delivery = self._delivery(*found, tag)
            if delivery is None:
                raise Empty
            self.connection._deliver(delivery, source.queue)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _read_acks(self) -> None:
        """Read the replies to the acks that went before the fetch."""
        for tag in self._own_qos.leaving:
            try:
                self._own_qos.note_acked(tag, self._parse())
            except ResponseError:
                self._own_qos.send_ack(tag)  # in full, or it is told what is wrong

    def _parse(self, **options: Any) -> Any:
        try:
            return self.client.parse_response(self.client.connection, "EVALSHA", **options)
        except self.connection_errors:
            self._queues_are_empty = False
            self.client.connection.disconnect()  # the next poll connects anew
            self._own_qos.carry_acks()
            raise

    def _read_reply(self, **options: Any) -> Any:
        try:
            reply = self._parse(**options)
        except NoScriptError:
            self._fetch_in_full = True
            raise Empty from None
        except ResponseError:
            self._queues_are_empty = False
            raise
        self._fetch_in_full = False
        if outage.is_over():
            adopt_carried(self)
        return reply

    def _sources_of(self, queues: Sequence[str]) -> list[ListToFetch]:
        return [
            ListToFetch(
                queue,
                name,
                self._named(self._q_for_pri(name, step)),
                queue not in self._unacknowledged_queues,
            )
            for step in self.priority_steps
            for queue in queues
            for name in self._in_turn(queue)
        ]

    def _in_turn(self, queue: str) -> list[str]:
        """The lists of a queue, first the one that has waited longest for its turn: none of them starves the others."""
        names = [queue] if hooks.lists_of is None else hooks.lists_of(queue)
        return sorted(names, key=lambda name: self._last_fetch.get(name, 0))

    def hand_back(self, delivery_tag: str, delay_seconds: float = 0.0) -> None:
        """Return a held message uncounted, at once or after a while."""
        self._own_qos.hand_back(delivery_tag, delay_seconds)

    def hand_on(self, delivery_tag: str, queue: str) -> None:
        """Put a held message on another list, behind what waits there, uncounted."""
        self._own_qos.hand_on(delivery_tag, queue)

    def set_aside(self, delivery_tag: str, letter: DeadLetter, untold: RerankError | None = None) -> None:
        """Move a held message to the dead letters; `untold` is what its caller must still be told."""
        self._own_qos.set_aside(delivery_tag, letter, untold)

    def _delivery(self, source: ListToFetch, raw: bytes, tag: str) -> Envelope | None:
        """The message for kombu; None if it must not be delivered, and then it lies with the dead letters."""
        try:
            envelope = open_envelope(raw)
        except Undecodable as error:
            self._refuse(
                source, raw, tag, error.envelope, unusable(job_id(error.envelope) or tag, str(error))
            )
            return None
        # Here and not in the worker: what kills its reader must be stopped before it is read any further.
        attempts = deliveries(envelope["headers"]) - 1
        if attempts >= self.max_deliveries:
            self._refuse(source, raw, tag, envelope, given_up(job_id(envelope) or tag, attempts))
            return None
        envelope["properties"]["delivery_tag"] = tag
        envelope["properties"]["delivery_info"]["queue"] = source.name
        return envelope

    def _refuse(
        self, source: ListToFetch, raw: bytes, tag: str, envelope: Envelope, error: RerankError
    ) -> None:
        """Set aside what cannot be delivered, and have its caller told, if it names one."""
        letter = letter_for(tag, source.name, raw, envelope, error)
        if source.is_acknowledged:
            untold = error if job_id(envelope) else None
            self._own_qos.bury(tag, letter, untold, envelope.get("headers"))

    # -- publishing

    def _put(self, queue: str, message: Envelope, **kwargs: Any) -> None:
        """Push a message and ring the bell of its queue."""
        list_key = self._q_for_pri(queue, self._get_message_priority(message))
        if kwargs.get("_publish_batch") is not None:
            return self._put_in_batch(kwargs["_publish_batch"], queue, list_key, message)
        expires_ms = self._expires.get(queue, 0)
        others = [self._q_for_pri(queue, step) for step in self.priority_steps] if expires_ms else []
        keys = [self._named(key) for key in (list_key, bell_of(queue), *others)]
        arguments: list[Any] = [dumps(message), expires_ms]
        record, name = record_key(message.get("headers")), job_id(message)
        if record and name and not expires_ms:
            keys += [open_jobs(self._named(list_key)), record]
            arguments.append(name)
        with self.conn_or_acquire() as client:
            PUSH(client, keys, arguments)
        return None

    def _put_in_batch(self, batch: Any, queue: str, list_key: str, message: Envelope) -> None:
        super()._put(queue, message, _publish_batch=batch)
        bell = bell_of(list_key)
        batch.add("lpush", bell, 1)
        batch.add("execute_command", "LTRIM", self._named(bell), 0, 127)  # kombu's client prefixes no LTRIM
        if queue in self._expires:
            batch.add("pexpire", bell, self._expires[queue])

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super()._delete(queue, *args, **kwargs)
        with self.conn_or_acquire(kwargs.get("client")) as client:
            client.delete(bell_of(queue))

    def _purge(self, queue: str) -> int:
        with self.conn_or_acquire() as client:
            client.delete(bell_of(queue))
        return super()._purge(queue)

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        """Who is bound to an exchange, whichever `sep` their application has: one set holds them all."""
        members = (self.sep.join(row) for row in super().get_table(exchange))
        rows = (tuple(member.split(between)) for member in members for between in SEPARATORS)
        return [row for row in rows if len(row) == 3]

    def _named(self, key: str) -> str:
        return self.global_keyprefix + key


class SentinelChannel(LeasedChannel, kombu_redis.SentinelChannel):
    """For sentinel://."""

    from_transport_options = (*kombu_redis.SentinelChannel.from_transport_options, *OUR_OPTIONS)


class LeasedTransport(kombu_redis.Transport):
    """Behind redis://, rediss:// and redis+socket:// of a `LeasedConnection`."""

    Channel = LeasedChannel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        super().register_with_event_loop(connection, loop)
        options = connection.client.transport_options
        sweep_every = options.get("unacked_restore_interval", self.Channel.unacked_restore_interval)
        renew_every = options.get("visibility_timeout", self.Channel.visibility_timeout) / RENEWALS_PER_LEASE
        self.cycle.keep_time(loop, sweep_every, renew_every)

    def _reject_inbound_message(self, raw_message: Envelope) -> None:
        """Return a message that came in after its consumer was cancelled: not tried, so not counted."""
        for channel in list(self.channels or [])[:1]:
            message = channel.Message(raw_message, channel=channel)
            channel.qos.append(message, message.delivery_tag)
            channel.qos.hand_back(message.delivery_tag)


class SentinelTransport(LeasedTransport, kombu_redis.SentinelTransport):
    """Behind sentinel:// of a `LeasedConnection`."""

    Channel = SentinelChannel
