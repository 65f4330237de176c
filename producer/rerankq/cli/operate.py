"""`rerankq workers`, `lanes`: what is there to answer, and what waits."""

import dataclasses
import json

from rerankq.cli import options
from rerankq.cli.connection import connected
from rerankq.cli.screen import out, plain_table, short


def workers(
    as_json: options.Json = False, local: options.Local = False, model: options.StackModel = None
) -> None:
    """List the workers heard of in the last seconds.

    [bold]Example:[/] rerankq workers --json | jq '.[].state'
    """
    with connected(local=local, model=model) as client:
        found = client.workers()
    if as_json:
        print(json.dumps([dataclasses.asdict(worker) for worker in found]))
        return
    if not found:
        out.print("no worker has been heard of lately; `rerankq-worker` starts one")
        return
    rows = [
        (
            worker.name,
            worker.state,
            ", ".join(worker.lanes),
            f"{worker.device} {worker.dtype}",
            f"{worker.model} {short(worker.revision)}",
            f"{worker.seen_seconds_ago:.0f} s ago",
        )
        for worker in found
    ]
    out.print(plain_table(("worker", "state", "lanes", "device", "model", "seen"), rows))


def lanes(
    as_json: options.Json = False, local: options.Local = False, model: options.StackModel = None
) -> None:
    """Count the jobs that wait in each lane.

    [bold]Example:[/] watch rerankq lanes
    """
    with connected(local=local, model=model) as client:
        waiting = client.lanes()
    if as_json:
        print(json.dumps(waiting))
        return
    out.print(
        plain_table(("lane", "jobs waiting"), [(lane, f"{count:,}") for lane, count in waiting.items()])
    )
