"""Whether a user of Redis may do what a producer or a worker does: each command on each key, asked without doing any.

Within MULTI Redis looks at the rights of a command when it is queued, and DISCARD forgets what was queued. So it needs
no right to ask about rights, goes with Redis 6.2 and later, and leaves nothing behind but a line in `ACL LOG` for each
refusal.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from rerankq.contract.redis_rights import Right
from rerankq.thread_connections import Connections

_NAMED = "rerankq-doctor"
"""What stands for `*` in the pattern of a key, and for whatever else has a name."""
_WITHOUT_KEYS = {
    "ping": (),
    "hello": (),
    "time": (),
    "info": (),
    "select": ("0",),
    "client|setname": (_NAMED,),
    "script|load": ("return(1)",),
    "script|exists": ("0" * 40,),
    "unsubscribe": (),
    "punsubscribe": (),
}
_SCRIPTS = {"eval": "return(1)", "evalsha": "0" * 40}
_CHANNELS = ("subscribe", "psubscribe", "publish")
_OF_TRANSACTIONS = ("multi", "exec", "discard")
_MOST_ARGUMENTS = 3

Words = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """One command on one key or channel."""

    command: str
    """As ACL rules name it: `client|setname`."""
    pattern: str = ""
    """The key or channel as ACL rules name it, its mark before it: `~rerankq.bulk*`."""

    def tries(self) -> list[Words]:
        """Calls of it, from the fewest arguments on: Redis counts them before it looks at rights."""
        name, target = tuple(self.command.split("|")), self.pattern[1:].replace("*", _NAMED)
        if self.command in _WITHOUT_KEYS:
            return [name + _WITHOUT_KEYS[self.command]]
        if self.command in _SCRIPTS:
            return [(*name, _SCRIPTS[self.command], "1", target)]
        if self.command == "psubscribe":  # compared with its rule word for word
            return [(*name, self.pattern[1:])]
        return [(*name, target, *("1",) * more) for more in range(_MOST_ARGUMENTS)]


def questions(rights: Iterable[Right], channels: Sequence[str]) -> list[Question]:
    """What is to be asked to know whether somebody has these rights, each once."""
    found: dict[Question, None] = {}
    for right in rights:
        for command in right.commands.split():
            found |= dict.fromkeys(_about(command, right.keys, channels))
    return list(found)


def _about(command: str, keys: Sequence[str], channels: Sequence[str]) -> Iterator[Question]:
    if command in _OF_TRANSACTIONS:
        return
    if command in _CHANNELS:
        yield from (Question(command, f"&{channel}") for channel in channels)
    elif command in _WITHOUT_KEYS:
        yield Question(command)
    else:
        yield from (Question(command, f"~{key}") for key in keys)


def refused(redis: "Redis", asked: Sequence[Question]) -> dict[Question, str]:
    """Those of them that this Redis does not let its user do, each with the ACL rule that it first lacks.

    Of one who may not even ask, what asking takes.

    Raises:
        RedisError: it did not answer.
    """
    tries = [(question, words) for question in asked for words in question.tries()]
    replies = _queued(redis, [words for _, words in tries])
    if isinstance(replies[0], NoPermissionError):
        return {Question(name): f"+{name}" for name in _OF_TRANSACTIONS}
    found: dict[Question, Any] = {}
    for (question, _), reply in zip(tries, replies[1:], strict=True):
        if not (isinstance(reply, ResponseError) and "wrong number of arg" in str(reply)):
            found.setdefault(question, reply)
    return {
        question: f"+{question.command}" if " run the " in str(reply) else question.pattern
        for question, reply in found.items()
        if isinstance(reply, NoPermissionError)
    }


def _queued(redis: "Redis", calls: Sequence[Words]) -> list[Any]:
    """What Redis says to each, MULTI before them; none is carried out."""
    connection: Any = Connections(redis).take()
    try:
        connection.send_packed_command(connection.pack_commands([("MULTI",), *calls, ("DISCARD",)]))
        return [_reply(connection) for _ in range(len(calls) + 2)][:-1]
    finally:
        connection.disconnect()


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error
