"""`rerankq dead`: jobs that were given up, why, and another try for them."""

import dataclasses
import json
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from rerankq.cli import options
from rerankq.cli.connection import redis_for
from rerankq.cli.screen import facts, out, print_table
from rerankq.contract import keys
from rerankq.contract.errors import InvalidRequest, JobUnknown

if TYPE_CHECKING:
    from rerankq.contract.transport.dead_letters import DeadLetter, DeadLetters

dead = typer.Typer(no_args_is_help=True, help="Look at jobs that were given up, and try them again.")

LetterId = Annotated[str, typer.Argument(help="As `rerankq dead list` shows it.", show_default=False)]


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
    print_table(("job", "given up", "attempts", "asked", "reason"), rows)


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
def retry(letter_id: LetterId, as_json: options.Json = False) -> None:
    """Put a job back on its lane with all its attempts before it.

    [bold]Example:[/] rerankq dead retry "$job" && rerankq result "$job"
    """
    from rerankq.contract.transport.dead_letters import NotReplayable

    with _letters() as letters:
        letter = _letter(letters, letter_id)
        _forget_answer(letter.id)  # before the job runs: its new answer must stay
        try:
            if not letters.retry(letter_id):
                raise _unknown(letter_id)
        except NotReplayable as error:
            raise InvalidRequest(str(error)) from error
    print(json.dumps({"retried": letter_id}) if as_json else f"{letter_id} waits on {letter.lane} again")


@dead.command()
def drop(letter_id: LetterId, as_json: options.Json = False) -> None:
    """Delete one of them, message and all.

    [bold]Example:[/] rerankq dead drop "$job"
    """
    with _letters() as letters:
        if not letters.drop(letter_id):
            raise _unknown(letter_id)
    print(json.dumps({"dropped": letter_id}) if as_json else f"{letter_id} is gone")


@contextmanager
def _letters() -> Generator["DeadLetters"]:
    from rerankq.contract.transport.dead_letters import DeadLetters

    with redis_for("looking for dead letters") as redis:
        yield DeadLetters(redis)


def _forget_answer(job_id: str) -> None:
    """Let the job be waited for once more; its old answer said that it was given up."""
    doing = "forgetting an answer"
    with redis_for(doing, "results") as results, redis_for(doing) as broker:
        results.delete(keys.result(job_id))
        broker.hdel(keys.job(job_id), "answered", "started", "scored")


def _letter(letters: "DeadLetters", letter_id: str) -> "DeadLetter":
    letter = letters.show(letter_id)
    if letter is None:
        raise _unknown(letter_id)
    return letter


def _unknown(letter_id: str) -> JobUnknown:
    return JobUnknown(f"no dead letter is called {letter_id}; `rerankq dead list` shows them")


def _moment(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
