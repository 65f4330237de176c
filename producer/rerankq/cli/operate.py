"""`rerankq workers`, `models`: what is there to answer."""

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from rerankq.cli import options
from rerankq.cli.connection import connected
from rerankq.cli.screen import out, print_table
from rerankq.cli.top import NO_WORKER, worker_rows

if TYPE_CHECKING:
    from rerankq.contract.heartbeats import WorkerStatus
    from rerankq.contract.served import ServedModel
    from rerankq.settings import ClientSettings


def workers(as_json: options.Json = False) -> None:
    """List the workers heard of in the last seconds, the lanes that are paused, and what their Redis may lose.

    [bold]Example:[/] rerankq workers --json | jq '.workers[].state'
    """
    from rerankq.contract.orders import paused_in_words

    with connected() as client:
        found, paused, risks = client.workers(), paused_in_words(client.paused()), _risks(client.settings)
    if as_json:
        told = [dataclasses.asdict(worker) for worker in found]
        print(json.dumps({"workers": told, "risks": risks, "paused": paused}))
        return
    _show(found)
    for lane in paused:
        out.print(f"paused: {lane}", markup=False, soft_wrap=True)
    for risk in risks:
        line = f"the {risk['store']} Redis may lose what it holds: {risk['text']}"
        out.print(line, markup=False, soft_wrap=True)


def _risks(settings: "ClientSettings") -> list[dict[str, str]]:
    from redis.exceptions import RedisError

    from rerankq.contract.refusals import refusal_in
    from rerankq.contract.risks import read_risks, redis_clients

    found: list[dict[str, str]] = []
    for store, redis in redis_clients(settings, settings.redis_timeout_seconds).items():
        try:
            with redis:
                found += [{"store": store, **dataclasses.asdict(risk)} for risk in read_risks(redis)]
        except RedisError as error:
            refusal = refusal_in(error)
            why = f"it did not say ({type(error).__name__})"
            if refusal is not None:
                why = f"it refused to say ({refusal.what}): {refusal.cure}"
            found.append({"store": store, "name": "unknown", "text": why})
    return found


def _show(found: "list[WorkerStatus]") -> None:
    headings = ("worker", "state", "lanes", "limits", "device", "engine", "model", "seen")
    if found:
        spare = ("limits", "engine", "seen", "lanes", "device", "model")
        print_table(headings, worker_rows(headings, found), spare=spare)
    else:
        out.print(NO_WORKER)


def models(as_json: options.Json = False) -> None:
    """List the models that are served now, and those that jobs wait for in vain; `rerankq model` is for their files.

    `share` is of the pairs scored in the last minutes. `--json` has the Redis lists of each, too.

    [bold]Example:[/] rerankq models --json | jq '.models[] | select(.workers == 0)'
    """
    from rerankq.contract.served import served_models

    with connected() as client:
        workers, waiting = client.workers(), client.model_lanes()
    found = served_models(workers, waiting)
    if as_json:
        unnamed = {
            "workers": sum(worker.serves_unnamed for worker in workers),
            "waiting": {lane: jobs for (lane, model), jobs in waiting.items() if model is None},
        }
        print(json.dumps({"models": [_facts(each) for each in found], "unnamed": unnamed}))
        return
    _show_models(found)
    in_vain = sum(jobs for (_, model), jobs in waiting.items() if model is None)
    if in_vain and not any(worker.serves_unnamed for worker in workers):
        out.print(
            f"jobs that name no model: {in_vain:,} wait, for no worker takes any; RERANKQ_SERVE_UNNAMED=true lets one"
        )


def _facts(of: "ServedModel") -> dict[str, Any]:
    """What is told of a model; lists where its workers may differ."""
    from rerankq.contract import keys
    from rerankq.contract.messages import LANES

    return {
        "model": of.model,
        "revision": of.revision,
        "workers": len(of.workers),
        "devices": of.all_of("device"),
        "engines": of.all_of("engine"),
        "families": of.all_of("family"),
        "dtypes": of.all_of("dtype"),
        "max_length_tokens": of.all_of("max_length_tokens"),
        "lanes": [lane for lane in LANES if any(lane in worker.lanes for worker in of.workers)],
        "serves_unnamed": of.serves_unnamed,
        "waiting": of.waiting,
        "share": of.share,
        "queues": [keys.queue_of(lane, name) for name in of.names for lane in LANES],
    }


def _show_models(found: "list[ServedModel]") -> None:
    from rerankq.admission import shortened
    from rerankq.contract.served import percentages

    if not found:
        out.print("no model is served or waited for; `rerankq-worker` serves one")
        return
    shares = iter(percentages([each.share for each in found if each.share is not None]))
    rows = [
        (
            shortened(told["model"]),
            str(told["workers"] or "nobody"),
            ", ".join(told["devices"]),
            " ".join(", ".join(told[name]) for name in ("engines", "families")).strip(),
            ", ".join(told["dtypes"]),
            ", ".join(map(str, told["max_length_tokens"])),
            ", ".join(told["lanes"]),
            "yes" if told["serves_unnamed"] else "no" if told["workers"] else "",
            f"{sum(told['waiting'].values()):,}",
            "" if told["share"] is None else f"{next(shares)} %",
            told["revision"],
        )
        for told in map(_facts, found)
    ]
    headings = (
        "model",
        "workers",
        "devices",
        "engine",
        "dtype",
        "length",
        "lanes",
        "unnamed",
        "waiting",
        "share",
        "revision",
    )
    print_table(
        headings,
        rows,
        spare=("length", "dtype", "engine", "unnamed", "revision", "share", "devices", "lanes"),
    )
