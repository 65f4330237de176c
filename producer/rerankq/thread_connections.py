"""What the threads of one client hold of Redis: connections, each used by one thread at a time, then kept for the next.

A thread that waits has two, one to ask and one that hears of its job's end. Forked processes have their own.
"""

import os
import time
from collections import deque
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from rerankq.contract import keys
from rerankq.contract.redis_clients import hang_up
from rerankq.procedures import Command

MOST_SPARE = 64  # of each kind; more are closed as soon as nobody uses them
TRUSTED_SECONDS = 60.0  # what is idle for longer may have been forgotten on its way


class Connections:
    """Connections to one Redis. One that nobody uses is kept for whoever asks next."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._spare: deque[tuple[Any, float]] = deque()
        self._pid = os.getpid()
        self._is_closed = False

    def ask(self, commands: tuple[Command, ...]) -> list[Any]:
        """The replies, in order; a refused command's is its error.

        Asked again where the connection was closed meanwhile. That may carry something out twice, which no procedure
        of ours minds: a job submitted twice is one job.
        """
        connection = self.take()
        try:
            return self._asked(connection, commands)
        except RedisConnectionError:
            return self._asked(self.take(), commands)

    def take(self) -> Any:
        """A connection for whoever asks, who gives it back, or hangs up where a reply may be on its way."""
        connection = self._kept() or self._redis.connection_pool.make_connection()
        try:
            connection.connect()
        except BaseException:
            connection.disconnect()
            raise
        return connection

    def give_back(self, connection: Any) -> None:
        """Keep it for the next."""
        self._spare.append((connection, time.monotonic()))
        with suppress(IndexError):
            while len(self._spare) > MOST_SPARE:
                self._spare.popleft()[0].disconnect()
        if self._is_closed:
            self.close()

    def close(self) -> None:
        """Close the connections that nobody uses, and from now on each as soon as nobody does."""
        self._is_closed = True
        with suppress(IndexError):
            while True:
                self._own_spare().pop()[0].disconnect()
        hang_up(self._redis)

    def _asked(self, connection: Any, commands: tuple[Command, ...]) -> list[Any]:
        try:
            # redis-py's own packing takes twice as long, and sends pieces, each a packet that wakes Redis.
            connection.send_packed_command([b"".join(map(_packed, commands))])
            replies = [self._reply(connection, command[0]) for command in commands]
        except BaseException:  # a reply that nobody read must not be taken for another's
            connection.disconnect()
            raise
        self.give_back(connection)
        return replies

    def _kept(self) -> Any | None:
        """One that was used before and can be again, the last one first; those that cannot be are closed."""
        with suppress(IndexError):
            while True:
                connection, since = self._own_spare().pop()
                is_trusted = time.monotonic() - since < TRUSTED_SECONDS
                is_ours: Any = self._redis.connection_pool.owns_connection(connection)  # no former master's
                with suppress(RedisError):
                    if is_trusted and is_ours and self._is_ready(connection):
                        return connection
                connection.disconnect()
        return None

    def _own_spare(self) -> deque[tuple[Any, float]]:
        if self._pid != os.getpid():  # forked: what was kept is the parent's
            self._redis.connection_pool.reset()
            self._spare, self._pid = deque(), os.getpid()
        return self._spare

    def _is_ready(self, connection: Any) -> bool:
        """Whether it is open, with nothing to read that another has asked for."""
        return not connection.can_read()

    def _reply(self, connection: Any, command_name: Any) -> Any:
        try:
            return self._redis.parse_response(connection, command_name)
        except ResponseError as error:
            return error


class Listeners(Connections):
    """Connections that hear of the ends of jobs, of one after another; between two they are subscribed to nothing."""

    def _is_ready(self, connection: Any) -> bool:
        while connection.can_read():
            connection.read_response()  # what the job before has left
        return True


class Watch:
    """The end of one job, as it is announced; has a listener from the first listening on."""

    def __init__(self, listeners: Listeners, job_id: str, *, is_early: bool) -> None:
        self.is_early = is_early
        """It listens before its job is sent: what is not heard has not happened."""
        self._listeners = listeners
        self._channel = keys.result(job_id)
        self._listener: Any = None
        self._is_subscribed = False
        self._may_have_missed = False

    def hear(self, seconds: float) -> bytes | None:
        """Celery's record of the job's end, if it is announced; listens for at most this long, or only begins to."""
        try:
            if self._listener is None:
                self._listener = self._listeners.take()
                self._listener.send_command("SUBSCRIBE", self._channel, check_health=False)
            return self._heard(seconds) if seconds > 0 else None
        except BaseException:
            self._hang_up()
            raise

    def close(self) -> None:
        """Listen no more; the listener is another job's from now on, unless it may have missed an announcement."""
        if self._listener is not None and not self._may_have_missed:
            with suppress(RedisError):
                self._listener.send_command("UNSUBSCRIBE", self._channel, check_health=False)
                self._listeners.give_back(self._listener)
                self._listener = None
        self._hang_up()

    def _heard(self, seconds: float) -> bytes | None:
        give_up_at = time.monotonic() + seconds
        self._may_have_missed = True
        while self._listener.can_read(timeout=max(give_up_at - time.monotonic(), 0.0)):
            kind, channel, told = self._listener.read_response()
            if channel == self._channel.encode():
                self._is_subscribed |= kind == b"subscribe"
                if kind == b"message":
                    self._may_have_missed = False
                    return told
        if not self._is_subscribed:  # nobody is there, it seems
            self._hang_up()
        return None

    def _hang_up(self) -> None:
        if self._listener is not None:
            self._listener.disconnect()
            self._listener, self._is_subscribed = None, False


def _packed(command: Command) -> bytes:
    """As Redis reads it."""
    parts = [b"*%d\r\n" % len(command)]
    for argument in command:
        sent = argument if isinstance(argument, bytes) else str(argument).encode()
        parts += (b"$%d\r\n" % len(sent), sent, b"\r\n")
    return b"".join(parts)
