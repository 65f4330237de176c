"""`rerankq pause`, `resume`, `drain`: what an operator orders, until it is taken back."""

import getpass
import json
import os
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

import typer

from rerankq.cli import options
from rerankq.cli.connection import redis_for
from rerankq.cli.screen import out, progress
from rerankq.contract.errors import InvalidRequest, ResultTimeout
from rerankq.contract.messages import LANES, Lane

if TYPE_CHECKING:
    from rerankq.contract.heartbeats import Heartbeats, WorkerStatus
    from rerankq.contract.orders import Orders

LOOK_AGAIN_SECONDS = 0.2
_TOLD = {
    "drained": "is drained",
    "draining": "drains",
    "gone": "is gone: it left, or has fallen silent; others take what it may have held",
}

OfModel = Annotated[
    str | None,
    typer.Option("--model", help="Only its jobs that name this model, as they name it.", show_default=False),
]
Workers = Annotated[
    list[str],
    typer.Argument(
        help="As `rerankq workers` shows them: a name, with or without the part from `~` on, a host, or a pattern "
        "('gpu0-*').",
        show_default=False,
    ),
]


def pause(lane: Lane, model: OfModel = None, as_json: options.Json = False) -> None:
    """Let no worker take jobs of a lane until `rerankq resume`; what they hold goes on, and jobs are still accepted.

    [bold]Example:[/] rerankq pause bulk
    """
    from rerankq.contract.heartbeats import Heartbeats
    from rerankq.contract.orders import Orders, resume_command

    _refuse_no_name(model)
    with redis_for("pausing a lane") as redis:
        is_new = Orders(redis).pause(lane, model, _who())
        workers, known = Heartbeats(redis).alive(), Heartbeats(redis).models()
    deaf = [worker.name for worker in workers if lane in worker.lanes and not worker.contract]
    for name in deaf:
        _warn(f"{name} is of an earlier release and takes jobs of it all the same; only its stop ends that")
    if model is not None and model not in known:
        _warn(
            f"no worker serves {model}, and no job has named it lately; known: {', '.join(known) or 'none'}"
        )
    if as_json:
        print(json.dumps({"paused": lane, "model": model, "is_new": is_new, "ignored_by": deaf}))
    else:
        was = "is paused" if is_new else "was paused already"
        out.print(
            f"{_lane(lane, model)} {was}; `{resume_command(lane, model)}` ends it",
            markup=False,
            soft_wrap=True,
        )


def resume(
    what: Annotated[
        list[str],
        typer.Argument(metavar="LANE|WORKER...", help="What was paused or drained.", show_default=False),
    ],
    model: OfModel = None,
    as_json: options.Json = False,
) -> None:
    """Let workers take jobs of a paused lane again, or workers that drain take jobs again.

    [bold]Example:[/] rerankq resume bulk
    """
    from rerankq.contract.orders import Orders, paused_in_words

    _refuse_no_name(model)
    workers_named = [each for each in what if each not in LANES]
    if model is not None and workers_named:
        raise InvalidRequest(f"--model is of a lane ({', '.join(LANES)}), and {workers_named[0]} is none")
    with redis_for("resuming") as redis:
        orders = Orders(redis)
        workers = _draining(workers_named, orders)
        lanes: dict[Lane, bool] = {lane: orders.resume(lane, model) for lane in LANES if lane in what}
        for name in workers:
            orders.employ(name)
        left = (
            [told for told in paused_in_words(orders.paused()) if told.startswith(tuple(lanes))]
            if lanes
            else []
        )
    if as_json:
        print(json.dumps({"lanes": lanes, "model": model, "workers": workers}))
        return
    lines = [
        f"{_lane(lane, model)} {'goes on' if was_paused else 'was not paused'}"
        for lane, was_paused in lanes.items()
    ]
    lines += [f"still paused: {told}" for told in left] + [f"{name} takes jobs again" for name in workers]
    for line in lines:
        out.print(line, markup=False, soft_wrap=True)


def drain(
    workers: Workers,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds to wait for what they hold; 0: not at all.", show_default=False),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Let workers take no more jobs, and wait until they have finished what they hold.

    They stay, idle, until `rerankq resume` names them or they are stopped; whoever starts in their place takes jobs.

    [bold]Example:[/] rerankq drain gpu0-bulk@host~3f2a9c
    """
    from rerankq.contract.heartbeats import Heartbeats
    from rerankq.contract.orders import Orders

    with redis_for("draining workers") as redis:
        names = [worker.name for worker in _able(_chosen(workers, Heartbeats(redis).alive()))]
        for name in names:
            Orders(redis).drain(name, _who())
        became = _wait_until_drained(Heartbeats(redis), names, timeout)
    left = [name for name, what in became.items() if what == "draining"]
    if as_json:
        print(json.dumps({what: [name for name in names if became[name] == what] for what in _TOLD}))
    else:
        for name, what in became.items():
            out.print(f"{name} {_TOLD[what]}", markup=False, soft_wrap=True)
    if left and timeout:
        raise ResultTimeout(
            f"{len(left)} of {len(names)} workers are not drained after {timeout:g} s; they take no more jobs: "
            "`rerankq workers` shows when they are"
        )


def _refuse_no_name(model: str | None) -> None:
    if model is not None and not model.strip():
        raise InvalidRequest(
            "--model: expected the name of a model, got nothing; without it the whole lane is meant"
        )


def _draining(wanted: Sequence[str], orders: "Orders") -> list[str]:
    """The names of the workers meant, of those that drain."""
    draining = list(orders.draining()) if wanted else []
    found: list[str] = []
    for each in wanted:
        called = [name for name in draining if _is_called(each, name)]
        if not called:
            raise InvalidRequest(
                f"neither a lane ({', '.join(LANES)}) nor a worker that drains is called {each}"
                + (f"; draining: {', '.join(draining)}" if draining else "; none drains")
            )
        found += [name for name in called if name not in found]
    return found


def _wait_until_drained(
    heartbeats: "Heartbeats", names: Sequence[str], timeout: float | None
) -> dict[str, str]:
    """What has become of each when none drains any longer, or the time is up: a word of `_TOLD`."""
    give_up_at = float("inf") if timeout is None else time.monotonic() + timeout
    with progress() as show:
        while True:
            alive = {worker.name: worker for worker in heartbeats.alive()}
            became = {name: _became(alive.get(name)) for name in names}
            left = list(became.values()).count("draining")
            if not left or time.monotonic() >= give_up_at:
                return became
            show(f"{left} of {len(names)} workers finish what they hold")
            time.sleep(LOOK_AGAIN_SECONDS)


def _became(worker: "WorkerStatus | None") -> str:
    if worker is None:
        return "gone"
    return "drained" if _is_drained(worker) else "draining"


def _is_drained(worker: "WorkerStatus") -> bool:
    """Whether it holds nothing and takes nothing; of one whose engine is away the state says only that."""
    from rerankq.contract.heartbeats import IN_SERVICE

    may_hold = worker.job or worker.state in (*IN_SERVICE, "draining")
    return worker.is_draining and not may_hold


def _chosen(wanted: Iterable[str], workers: Sequence["WorkerStatus"]) -> list["WorkerStatus"]:
    found: dict[str, WorkerStatus] = {}
    for each in wanted:
        called = [worker for worker in workers if _is_called(each, worker.name) or worker.host == each]
        if not called:
            raise _unknown(each, [worker.name for worker in workers])
        found |= {worker.name: worker for worker in called}
    return list(found.values())


def _able(workers: Sequence["WorkerStatus"]) -> Sequence["WorkerStatus"]:
    for worker in workers:
        if not worker.contract:
            raise InvalidRequest(
                f"{worker.name} is of an earlier release and cannot drain; stop it instead: on SIGTERM it finishes the "
                "job that it holds"
            )
    return workers


def _is_called(wanted: str, name: str) -> bool:
    """By its name, with or without its unique ending, by its host's, or by a pattern."""
    short_name = name.partition("~")[0]
    return wanted in (name, short_name, short_name.rpartition("@")[2]) or fnmatchcase(name, wanted)


def _unknown(wanted: str, names: Sequence[str]) -> InvalidRequest:
    near = get_close_matches(wanted, names, n=3, cutoff=0.4) or names[:3]
    told = f"; heard of lately: {', '.join(near)}" if near else "; none has been heard of lately"
    return InvalidRequest(f"no worker is called {wanted}{told}")


def _who() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def _lane(lane: Lane, model: str | None) -> str:
    return f"the {lane} lane" if model is None else f"the {lane} lane of {model}"


def _warn(line: str) -> None:
    print(f"rerankq: {line}", file=sys.stderr)
