"""What one event loop holds of Redis: a connection to each, shared by all who ask, and a listener for all who wait.

Three connections at most, however many ask. Whoever stops waiting breaks none of them: what was asked goes its way, and
what is asked later comes later.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from rerankq.contract import keys
from rerankq.contract.address import read_address
from rerankq.contract.transport.scripts import RedisArgument
from rerankq.procedures import Ask, Command, Store
from rerankq.settings import ClientSettings

_RECONNECT_SECONDS = 0.1
_SILENCE_SECONDS = 5.0  # after which the listener asks whether anybody is there
_LATE_SECONDS = 0.05  # a timer that comes so late says that the loop was held up
_GRACES = 10  # at most, for a loop that is held up again and again
_CANCEL_AGAIN_SECONDS = 0.1
_SETTLING_TURNS = 5  # of the loop: until whoever is woken or cancelled with it has said their last word

Replies = list[Any]
T = TypeVar("T")


class SharedConnection:
    """One connection to one Redis. What is asked while a round trip is under way goes with the next."""

    def __init__(self, redis: "Redis", timeout_seconds: float) -> None:
        self.redis = redis
        self._timeout_seconds = timeout_seconds
        self._waiting: list[tuple[tuple[Command, ...], asyncio.Future[Replies]]] = []
        self._serving: asyncio.Task[None] | None = None

    def tell(self, commands: tuple[Command, ...]) -> "asyncio.Future[Replies]":
        """The replies to come; the commands are carried out whether or not anybody waits for them.

        Raises:
            UnicodeEncodeError: here, and not for all whose commands go along.
        """
        sendable = tuple((name, *map(_encoded, arguments)) for name, *arguments in commands)
        replies: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
        self._waiting.append((sendable, replies))
        if self._serving is None or self._serving.done():
            self._serving = asyncio.create_task(self._serve())
        return replies

    async def ask(self, commands: tuple[Command, ...]) -> Replies:
        """The replies, in order; a refused command's is its error, and none in time is raised."""
        return await _in_time(self.tell(commands), self._timeout_seconds)

    async def close(self) -> None:
        """Carry out what was asked, and hang up."""
        while self._serving is not None and not self._serving.done():
            await asyncio.wait({self._serving})
        await self.redis.aclose()

    async def _serve(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                replies = iter(
                    await self._round_trip([command for commands, _ in batch for command in commands])
                )
            except (RedisError, OSError) as error:
                for _, future in batch:
                    _settle(future, error)
            except asyncio.CancelledError:  # the loop ends; what was asked meanwhile is asked all the same
                for _, future in batch:
                    future.cancel()
                if self._waiting:
                    self._serving = asyncio.create_task(self._serve())
                raise
            else:
                for commands, future in batch:
                    _settle(future, [next(replies) for _ in commands])

    async def _round_trip(self, commands: list[Command]) -> Replies:
        """The replies; asked again where the connection was closed, perhaps while nobody used it.

        That may carry something out twice, which no procedure of ours minds: a job submitted twice is one job.
        """
        try:
            return await self._asked(commands)
        except RedisConnectionError:
            return await self._asked(commands)

    async def _asked(self, commands: list[Command]) -> Replies:
        pipeline = self.redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        executing = asyncio.ensure_future(pipeline.execute(raise_on_error=False))
        try:
            return await _in_time(executing, self._timeout_seconds)
        finally:
            await _end(executing)  # then its connection hangs up, for what comes there now is an old reply


class Watch:
    """The end of one job, as it is announced."""

    def __init__(self, *, is_early: bool = False) -> None:
        self.is_early = is_early
        """It listens before its job is sent: what is not heard has not happened."""
        self._told = asyncio.Event()
        self._meta: bytes | None = None

    def tell(self, meta: bytes | None) -> None:
        """The job has ended so, or may have."""
        self._meta = meta or self._meta
        self._told.set()

    async def hear(self, seconds: float) -> bytes | None:
        """Celery's record of the job's end, if it was announced; waits for at most this long."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._told.wait()
        self._told.clear()
        meta, self._meta = self._meta, None
        return meta


class AnswerListener:
    """One connection that hears the ends of all jobs that are watched."""

    def __init__(self, redis: "Redis", timeout_seconds: float) -> None:
        """`redis` knows no timeout: in Python 3.11 redis-py's may swallow that we are cancelled."""
        self.redis = redis
        self._timeout_seconds = timeout_seconds
        self._watches: dict[str, set[Watch]] = {}
        self._changed = asyncio.Event()

    @contextmanager
    def watching(self, job_id: str, *, is_early: bool = False) -> Generator[Watch]:
        """Watch for a job's end.

        Nobody waits for the subscription: when it stands, whoever watches is told to look, but for those who were
        early, and whose wish to subscribe was sent before their job.
        """
        channel, watch = keys.result(job_id), Watch(is_early=is_early)
        channel.encode()  # here, and not for all who are subscribed along with it
        self._watches.setdefault(channel, set()).add(watch)
        self._changed.set()
        try:
            yield watch
        finally:
            watches = self._watches[channel]
            watches.discard(watch)
            if not watches:
                del self._watches[channel]
                self._changed.set()

    def wake_all(self) -> None:
        """Have everybody who watches look."""
        for watches in self._watches.values():
            for watch in watches:
                watch.tell(None)

    async def listen(self) -> None:
        """Listen while anybody watches, until cancelled; a connection that breaks is made anew."""
        while True:
            await self._changed.wait()
            try:
                await self._connected()
            except (RedisError, OSError):
                self._changed.set()
                await asyncio.sleep(_RECONNECT_SECONDS)

    async def _connected(self) -> None:
        connection = (
            self.redis.connection_pool.make_connection()
        )  # asking the pool for one differs between releases
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await _until_one_ends(connection.connect())
            await _until_one_ends(self._subscribe(connection), self._hear(connection))
        finally:
            await connection.disconnect(nowait=True)

    async def _subscribe(self, connection: Any) -> None:
        # A channel that nobody uses keeps the connection open while nothing is watched. It is named as an answer is,
        # since a producer may listen to nothing else.
        subscribed, kept = set[str](), keys.result("")
        for watches in self._watches.values():
            for watch in watches:
                watch.is_early = False
        while True:
            self._changed.clear()
            wanted = {kept, *self._watches}
            for verb, channels in (("SUBSCRIBE", wanted - subscribed), ("UNSUBSCRIBE", subscribed - wanted)):
                if channels:
                    await connection.send_command(verb, *channels)
            subscribed = wanted
            await self._changed.wait()

    async def _hear(self, connection: Any) -> None:
        asked_whether_there = False
        while True:
            reply = await connection.read_response(timeout=_SILENCE_SECONDS)
            if reply is None and asked_whether_there:
                raise RedisConnectionError("Redis says nothing")
            asked_whether_there = reply is None
            if reply is None:
                await connection.send_command("PING")
            elif reply[0] in (b"message", b"subscribe"):
                meta = reply[2] if reply[0] == b"message" else None
                for watch in self._watches.get(reply[1].decode(), ()):
                    if meta is not None or not watch.is_early:
                        watch.tell(meta)


class LoopConnections:
    """The connections of one event loop. They go with it: at `close`, or when the loop's tasks are cancelled."""

    def __init__(self, settings: ClientSettings) -> None:
        broker_url, result_url = settings.broker_url.get_secret_value(), settings.effective_result_url
        timeout = settings.redis_timeout_seconds
        broker = SharedConnection(_async_redis(broker_url, timeout), timeout)
        is_one = broker_url == result_url
        self._shared: dict[Store, SharedConnection] = {
            "broker": broker,
            "results": broker if is_one else SharedConnection(_async_redis(result_url, timeout), timeout),
        }
        self._listener = AnswerListener(_async_redis(result_url, None), timeout)
        self._loop = asyncio.get_running_loop()
        self._is_closing = False
        self._living = asyncio.create_task(self._live())

    @property
    def is_open(self) -> bool:
        """Whether it can be used still."""
        return not (self._is_closing or self._living.done() or self._loop.is_closed())

    def watching(self, job_id: str, *, is_early: bool = False) -> "contextlib.AbstractContextManager[Watch]":
        """Watch for a job's end."""
        return self._listener.watching(job_id, is_early=is_early)

    async def ask(self, step: Ask) -> Replies:
        """The replies to what a procedure asks."""
        return await self._shared[step.of].ask(step.commands)

    def tell(self, *commands: Command) -> "asyncio.Future[Replies]":
        """The broker's replies to come; the commands are carried out whether or not anybody waits for them."""
        return self._shared["broker"].tell(commands)

    async def close(self) -> None:
        """Carry out what was asked, and hang up; from any loop."""
        if self._loop is asyncio.get_running_loop():
            self._living.cancel()
            await asyncio.wait({self._living})
        else:
            with contextlib.suppress(RuntimeError):  # it is closed, and its connections with it
                self._loop.call_soon_threadsafe(self._living.cancel)

    async def _live(self) -> None:
        try:
            await self._listener.listen()
        finally:
            self._is_closing = True
            self._listener.wake_all()
            for _ in range(_SETTLING_TURNS):
                await asyncio.sleep(0)
            for close in (self._listener.redis.aclose, *{each.close for each in self._shared.values()}):
                with contextlib.suppress(RedisError, OSError):
                    await close()


async def _in_time(asked: "asyncio.Future[T]", seconds: float) -> T:
    """What was asked of Redis. While somebody holds the loop up, time hardly counts: the reply may lie there unread.

    Raises:
        redis.exceptions.TimeoutError: it is not there within so many seconds.
    """
    loop = asyncio.get_running_loop()
    for _ in range(1 + _GRACES):
        due = loop.time() + seconds
        done, _ = await asyncio.wait({asked}, timeout=seconds)
        if done:
            return asked.result()
        seconds = min(loop.time() - due, seconds)
        if seconds < _LATE_SECONDS:
            break
    raise RedisTimeoutError("Redis did not answer in time")


async def _until_one_ends(*works: Coroutine[Any, Any, None]) -> None:
    """Do these at once until one ends or fails, or we are cancelled.

    A `TaskGroup` forgets, before Python 3.13, that it was cancelled where one of its tasks fails in the same moment; so
    may what waits with a timeout in redis-py. Then a loop that ends would wait for us for ever.
    """
    tasks = {asyncio.ensure_future(work) for work in works}
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended.pop().result()
    finally:
        await _end(*tasks)


async def _end(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel these until they have ended, however often they miss it."""
    while running := {task for task in tasks if not task.done()}:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=_CANCEL_AGAIN_SECONDS)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # it is told, or nobody is there to hear it


def _encoded(argument: RedisArgument) -> RedisArgument:
    return argument.encode() if isinstance(argument, str) else argument


def _settle(future: "asyncio.Future[Replies]", outcome: Replies | Exception) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
        future.exception()  # nobody may be waiting any more
    else:
        future.set_result(outcome)


def _async_redis(url: str, timeout_seconds: float | None) -> "Redis":
    limits: dict[str, Any] = {
        "socket_timeout": None,  # whoever asks has a limit of its own; redis-py's counts while the loop is held up
        "socket_connect_timeout": timeout_seconds,
        "retry": Retry(NoBackoff(), 0),  # by itself redis-py tries for eight seconds
        "protocol": 2,  # with the third, announcements are no replies
    }
    address = read_address(url)
    options = address.for_redis_py() | limits
    if address.is_sentinel:
        asked = limits | {"socket_timeout": timeout_seconds}  # or a silent one would keep us from the others
        sentinel = Sentinel(address.hosts, sentinel_kwargs=asked)
        return sentinel.master_for(address.master_name, redis_class=_Master, **options)
    return Redis(**options)


class _Master(Redis):
    """A client of whichever Redis the sentinels name; closes the connections to them as well."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        pool: Any = self.connection_pool
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()
