"""`rerankq dead`: jobs that were given up, why, and another try for them."""

import dataclasses
import json
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankq.cli import options
from rerankq.cli.connection import redis_for
from rerankq.cli.screen import facts, out, print_table, progress
from rerankq.contract import keys
from rerankq.contract.errors import InvalidRequest, JobUnknown

if TYPE_CHECKING:
    from redis import Redis

    from rerankq.contract.transport.dead_letters import DeadLetter, DeadLetters

dead = typer.Typer(no_args_is_help=True, help="Look at jobs that were given up, and try them again.")

LetterId = Annotated[str, typer.Argument(help="As `rerankq dead list` shows it.", show_default=False)]
LetterIdOrNone = Annotated[
    str | None, typer.Argument(help="As `rerankq dead list` shows it.", show_default=False)
]
All = Annotated[bool, typer.Option("--all", help="All of them.")]
Reason = Annotated[
    str | None, typer.Option(help="Those whose reason has this in it, in whatever case.", show_default=False)
]
OlderThan = Annotated[
    str | None, typer.Option(help="Those given up so long ago: 90s, 30m, 12h, 7d.", show_default=False)
]
Limit = Annotated[int | None, typer.Option(min=1, help="No more than so many.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count them, and change nothing.")]

Asking = Callable[[], AbstractContextManager[Any]]

_SECONDS_IN = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_MOST_DIGITS = 12


@dead.command("list")
def list_letters(
    limit: Annotated[int, typer.Option(min=1, help="The latest so many.")] = 100,
    as_json: options.Json = False,
) -> None:
    """List the jobs that were given up, the latest first; never a word of what was asked.

    [bold]Example:[/] rerankq dead list --json | jq -r '.[].id'
    """
    with _letters() as letters:
        found = letters.list(limit)
    if as_json:
        print(json.dumps([dataclasses.asdict(letter) for letter in found]))
        return
    if not found:
        out.print("no job was given up")
        return
    rows = [
        (letter.id, _moment(letter.died_at), str(letter.attempts), letter.summary, letter.reason)
        for letter in found
    ]
    print_table(
        ("job", "given up", "attempts", "asked", "reason"), rows, spare=("asked", "attempts", "given up")
    )


@dead.command()
def show(
    letter_id: LetterId,
    message: Annotated[
        bool, typer.Option("--message", help="Print the message itself: this is what the user asked.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Say all that is known of one of them.

    [bold]Example:[/] rerankq dead show "$job"
    """
    with _letters() as letters:
        letter = _letter(letters, letter_id)
        body = letters.message(letter_id) if message else None
    if body is not None:
        print(body.decode(errors="replace"))
    elif as_json:
        print(json.dumps(dataclasses.asdict(letter)))
    else:
        told = dataclasses.asdict(letter) | {"died_at": _moment(letter.died_at)}
        out.print(facts([(name, str(value)) for name, value in told.items()]), soft_wrap=True)


@dead.command()
def retry(
    letter_id: LetterIdOrNone = None,
    all_: All = False,
    reason: Reason = None,
    older_than: OlderThan = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Put a job back on its lane with all its attempts before it; or all jobs that are meant, the oldest first.

    [bold]Example:[/] rerankq dead retry "$job" && rerankq result "$job"
    """
    meant = Meant(letter_id, all_, reason, older_than, limit)
    with _letters() as letters, _answers() as (results, asking):
        if dry_run:
            _tell_count("would be retried", list(meant.of(letters)), as_json=as_json)
            return
        if letter_id is not None:
            letter = _letter(letters, letter_id)
            if not retried(letters, letter_id, results, asking):
                raise _unknown(letter_id)
            told = (
                json.dumps({"retried": letter_id}) if as_json else f"{letter_id} waits on {letter.lane} again"
            )
            print(told)
            return
        found = list(meant.of(letters))
        if not found and not as_json:
            print(f"none is meant of {_jobs(letters.count())} given up")
            return
        put_back = partial(retried, letters, results=results, asking=asking)
        again, unusable = _retry_all(put_back, found)
    if as_json:
        print(json.dumps({"retried": again, "unusable": unusable}))
        return
    print(f"{_jobs(len(again))} waiting again")
    if unusable:
        print(
            f"{_jobs(len(unusable))} left: they cannot be read, so no worker could answer them (`rerankq dead drop`)"
        )


@dead.command()
def drop(
    letter_id: LetterIdOrNone = None,
    all_: All = False,
    reason: Reason = None,
    older_than: OlderThan = None,
    limit: Limit = None,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nobody first.")] = False,
    as_json: options.Json = False,
) -> None:
    """Delete one of them, message and all; or all that are meant, the oldest first.

    [bold]Example:[/] rerankq dead drop --older-than 3d --dry-run
    """
    meant = Meant(letter_id, all_, reason, older_than, limit)
    with _letters() as letters:
        if dry_run:
            _tell_count("would be deleted", list(meant.of(letters)), as_json=as_json)
            return
        if letter_id is not None:
            if not letters.drop(letter_id):
                raise _unknown(letter_id)
            print(json.dumps({"dropped": letter_id}) if as_json else f"{letter_id} is gone")
            return
        found = list(meant.of(letters))
        if not found and not as_json:
            print(f"none is meant of {_jobs(letters.count())} given up")
            return
        if found and not yes:
            _ask_first(len(found))
        dropped = [each for each in _one_by_one("deleting", found) if letters.drop(each)]
    print(json.dumps({"dropped": dropped}) if as_json else f"{_jobs(len(dropped))} gone")


@dataclasses.dataclass(frozen=True, slots=True)
class Meant:
    """Which dead letters a command is about."""

    letter_id: str | None
    is_all: bool
    reason: str | None
    older_than: str | None
    limit: int | None

    def __post_init__(self) -> None:
        chosen = self.is_all or self.reason is not None or self.older_than is not None
        if self.letter_id is None and not chosen:
            raise InvalidRequest(
                "expected the id of a dead letter, or which are meant: --all, --reason or --older-than"
            )
        if self.reason is not None and not self.reason.strip():
            raise InvalidRequest(
                "--reason: expected a part of a reason, got nothing; --all means all of them"
            )
        if self.letter_id is not None and (chosen or self.limit is not None):
            raise InvalidRequest("expected the id of one dead letter or which are meant, got both")

    def of(self, letters: "DeadLetters") -> Generator[str]:
        """The ids of those that are there.

        Raises:
            JobUnknown: the one that is named is not.
        """
        if self.letter_id is not None:
            yield _letter(letters, self.letter_id).id
            return
        age_seconds = 0.0 if self.older_than is None else seconds_in(self.older_than)
        ids = letters.ids(letters.now() - age_seconds)
        found = (each for each in ids if self.reason is None or self._has_reason(letters.show(each)))
        yield from islice(found, self.limit)

    def _has_reason(self, letter: "DeadLetter | None") -> bool:
        return letter is not None and (self.reason or "").lower() in letter.reason.lower()


def seconds_in(age: str) -> float:
    """The seconds of `90s`, `30m`, `12h` or `7d`.

    Raises:
        InvalidRequest: it is none of these.
    """
    number, unit = age[:-1], age[-1:]
    is_number = number.isascii() and number.isdigit() and len(number) <= _MOST_DIGITS
    if unit not in _SECONDS_IN or not is_number:
        raise InvalidRequest(f"--older-than: expected an age such as 90s, 30m, 12h or 7d, got {age[:20]!r}")
    return int(number) * _SECONDS_IN[unit]


def retried(letters: "DeadLetters", letter_id: str, results: "Redis", asking: Asking = nullcontext) -> bool:
    """Whether the job waits again; False where there is no such letter any more.

    Its old answer, that it was given up, goes before it runs; one that it has had since, somebody else having retried
    it, stays.

    Args:
        asking: what the errors of `results`, which may be another Redis, are caught by.

    Raises:
        InvalidRequest: nobody can read its message.
    """
    from rerankq.contract.transport.dead_letters import FORGET, NotReplayable

    answer = keys.result(letter_id)
    with asking():
        old = results.get(answer)
    try:
        if not letters.check(letter_id):
            return False
        if old is not None:
            with asking():
                FORGET(results, [answer], [old])
        return letters.retry(letter_id)
    except NotReplayable as error:
        raise InvalidRequest(str(error)) from error


def _retry_all(put_back: Callable[[str], bool], found: Sequence[str]) -> tuple[list[str], list[str]]:
    """The ids of those that wait again, and of those that nobody can read."""
    again: list[str] = []
    unusable: list[str] = []
    for each in _one_by_one("retrying", found):
        try:
            if put_back(each):
                again.append(each)
        except InvalidRequest:
            unusable.append(each)
    return again, unusable


def _one_by_one(doing: str, found: Sequence[str]) -> Generator[str]:
    """Each of them, and on a terminal how far it is."""
    with progress() as show:
        for at, each in enumerate(found):
            show(f"{doing} {at:,} of {len(found):,}")
            yield each


def _tell_count(what: str, found: Sequence[str], *, as_json: bool) -> None:
    print(json.dumps({"count": len(found), "ids": found}) if as_json else f"{_jobs(len(found))} {what}")


def _ask_first(count: int) -> None:
    if not sys.stdin.isatty():
        raise InvalidRequest(
            f"{_jobs(count)} would be deleted for ever; --yes says that this is meant, --dry-run shows them"
        )
    typer.confirm(f"Delete {_jobs(count)} for ever?", abort=True, err=True)


def _jobs(count: int) -> str:
    return f"{count:,} job{'' if count == 1 else 's'}"


@contextmanager
def _letters() -> Generator["DeadLetters"]:
    from rerankq.contract.transport.dead_letters import DeadLetters

    with redis_for("looking for dead letters") as redis:
        yield DeadLetters(redis)


@contextmanager
def _answers() -> 'Generator[tuple["Redis", Asking]]':
    """The Redis of the answers, and what lets its errors, and no other Redis' own, arrive as ours."""
    from rerankq.contract.redis_clients import redis_client
    from rerankq.procedures import errors_as_ours
    from rerankq.settings import ClientSettings

    settings = ClientSettings.load()
    with redis_client(settings.effective_result_url, settings.redis_timeout_seconds) as results:
        yield results, partial(errors_as_ours, "forgetting an answer", settings, "results")


def _letter(letters: "DeadLetters", letter_id: str) -> "DeadLetter":
    letter = letters.show(letter_id)
    if letter is None:
        raise _unknown(letter_id)
    return letter


def _unknown(letter_id: str) -> JobUnknown:
    return JobUnknown(f"no dead letter is called {letter_id}; `rerankq dead list` shows them")


def _moment(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
