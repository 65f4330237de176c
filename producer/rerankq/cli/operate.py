"""`rerankq workers`, `lanes`: what is there to answer, and what waits."""

import dataclasses
import json
from typing import TYPE_CHECKING

from rerankq.cli import options
from rerankq.cli.connection import connected
from rerankq.cli.screen import out, plain_table, short

if TYPE_CHECKING:
    from rerankq.contract.heartbeats import WorkerStatus
    from rerankq.settings import ClientSettings


def workers(as_json: options.Json = False) -> None:
    """List the workers heard of in the last seconds, and say what their Redis may lose.

    [bold]Example:[/] rerankq workers --json | jq '.workers[].state'
    """
    with connected() as client:
        found, risks = client.workers(), _risks(client.settings)
    if as_json:
        print(json.dumps({"workers": [dataclasses.asdict(worker) for worker in found], "risks": risks}))
        return
    _show(found)
    for risk in risks:
        line = f"the {risk['store']} Redis may lose what it holds: {risk['text']}"
        out.print(line, markup=False, soft_wrap=True)


def _risks(settings: "ClientSettings") -> list[dict[str, str]]:
    from redis.exceptions import RedisError

    from rerankq.contract.risks import read_risks, redis_clients

    found: list[dict[str, str]] = []
    for store, redis in redis_clients(settings, settings.redis_timeout_seconds).items():
        try:
            with redis:
                found += [{"store": store, **dataclasses.asdict(risk)} for risk in read_risks(redis)]
        except RedisError as error:
            found.append(
                {"store": store, "name": "unknown", "text": f"it did not say ({type(error).__name__})"}
            )
    return found


def _show(found: "list[WorkerStatus]") -> None:
    if not found:
        out.print("no worker has been heard of lately; `rerankq-worker` starts one")
        return
    rows = [
        (
            worker.name,
            worker.state,
            ", ".join(worker.lanes),
            ", ".join(
                f"{worker.limits_seconds[lane]:g} s" for lane in worker.lanes if lane in worker.limits_seconds
            ),
            f"{worker.device} {worker.dtype}".strip(),
            f"{worker.model} {short(worker.revision)}".strip(),
            f"{worker.seen_seconds_ago:.0f} s ago",
        )
        for worker in found
    ]
    out.print(plain_table(("worker", "state", "lanes", "limits", "device", "model", "seen"), rows))


def lanes(as_json: options.Json = False) -> None:
    """Count the jobs that wait in each lane, and those of them that name a model by its name.

    [bold]Example:[/] watch rerankq lanes
    """
    from rerankq.admission import shortened
    from rerankq.contract.messages import LANES

    with connected() as client:
        waiting = client.model_lanes()
    if as_json:
        models = sorted({model for _, model in waiting if model is not None})
        by_model = {model: {lane: waiting.get((lane, model), 0) for lane in LANES} for model in models}
        all_together = {lane: sum(n for (each, _), n in waiting.items() if each == lane) for lane in LANES}
        print(json.dumps(all_together | ({"models": by_model} if by_model else {})))
        return
    rows = [
        (lane, "" if model is None else shortened(model), f"{n:,}") for (lane, model), n in waiting.items()
    ]
    out.print(plain_table(("lane", "model", "jobs waiting"), rows))
