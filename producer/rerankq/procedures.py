"""What is asked of Redis, step by step: written once, run by a thread or by an event loop.

A procedure is a generator: it yields what it wants done and is sent what came of it, or has an error of Redis's thrown
into it.
"""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from redis.exceptions import NoScriptError, RedisError

from rerankq.contract.address import read_address
from rerankq.contract.errors import BrokerUnavailable, QueueFull
from rerankq.contract.refusals import refusal_in
from rerankq.contract.transport.scripts import RedisArgument, Script
from rerankq.settings import ClientSettings

Command = tuple[RedisArgument, ...]
Store = Literal["broker", "results"]
T = TypeVar("T")

_WAYS_OUT = (
    "`rerankq up` starts one here, RERANKQ_BROKER_URL names one elsewhere, `--local` brings one for a command"
)


@dataclass(frozen=True, slots=True)
class Ask:
    """Commands for one Redis, in one round trip: their replies, in order; a refused one's is its error."""

    commands: tuple[Command, ...]
    of: Store = "broker"


@dataclass(frozen=True, slots=True)
class Listen:
    """Listen for the end of the job for at most this long: Celery's record of it, or None."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Let some time pass."""

    seconds: float


Step = Ask | Listen | Pause
Procedure = Generator[Step, Any, T]


def run(procedure: Procedure[T], do: Callable[[Step], Any]) -> T:
    """What the procedure comes to, each of its steps done by `do`."""
    try:
        step = next(procedure)
        while True:
            try:
                came = do(step)
            except RedisError as error:
                step = procedure.throw(error)
            else:
                step = procedure.send(came)
    except StopIteration as end:
        return end.value
    finally:
        procedure.close()


async def run_async(procedure: Procedure[T], do: Callable[[Step], Awaitable[Any]]) -> T:
    """As `run`, in an event loop."""
    try:
        step = next(procedure)
        while True:
            try:
                came = await do(step)
            except RedisError as error:
                step = procedure.throw(error)
            else:
                step = procedure.send(came)
    except StopIteration as end:
        return end.value
    finally:
        procedure.close()


def ask(*commands: Command, of: Store = "broker") -> Procedure[list[Any]]:
    """The replies of these commands; of a refused one its error."""
    return (yield Ask(commands, of))


def ask_one(*command: RedisArgument, of: Store = "broker") -> Procedure[Any]:
    """The reply to this command; a refusal is raised."""
    (reply,) = yield from ask(command, of=of)
    return accepted(reply)


def ask_script(script: Script, keys: list[str], arguments: list[RedisArgument]) -> Procedure[Any]:
    """What a script returns, sent in full only when the server does not know it."""
    try:
        return (yield from ask_one(*script.by_hash(keys, arguments)))
    except NoScriptError:
        return (yield from ask_one(*script.in_full(keys, arguments)))


def accepted(reply: Any) -> Any:
    """The reply to a command; a refusal is raised."""
    if isinstance(reply, RedisError):
        raise reply
    return reply


@contextmanager
def errors_as_ours(
    doing: str, settings: ClientSettings, store: Store = "broker"
) -> Generator[Callable[[Step], Step]]:
    """Let Redis's own errors arrive as ours, with the address that was tried.

    Args:
        store: which Redis is asked, until a step that is passed through what is yielded says otherwise.
    """

    def tried(step: Step) -> Step:
        nonlocal store
        if isinstance(step, Ask):
            store = step.of
        elif isinstance(step, Listen):
            store = "results"
        return step

    try:
        yield tried
    except RedisError as error:
        url = settings.broker_url.get_secret_value() if store == "broker" else settings.effective_result_url
        where, refusal = f"Redis ({read_address(url).shown})", refusal_in(error)
        if refusal is None:
            told = f"did not answer while {doing}: {type(error).__name__}; {_WAYS_OUT}"
            raise BrokerUnavailable(f"{where} {told}") from error
        told = f"{where} refused while {doing}: {refusal.what}; {refusal.cure}"
        if refusal.what == "OOM":
            raise QueueFull(f"{told}; try again in 5 s", {"retry_after_seconds": 5.0}) from error
        raise BrokerUnavailable(told) from error
