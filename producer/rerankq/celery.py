"""For a Celery application that has documents ranked among tasks of its own; docs/celery.md.

    rerankq.celery.route(app)
    chain(retrieve.s("capital of China"), rerankq.celery.signature(top_n=5), show.s()).delay()

Stands beside whatever Celery the application has, from 5.5, and sends by the application's own connection.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from celery import Celery
from celery.app import app_or_default, routes
from celery.canvas import Signature
from redis.exceptions import RedisError

from rerankq.contract import keys, traces
from rerankq.contract.errors import InvalidRequest, InvalidSettings
from rerankq.contract.keys import queue_of
from rerankq.contract.messages import LANES, Document, Lane, is_model_name, parse_request
from rerankq.contract.wire import PACK_TASK, RERANK_TASK

# Ours goes as JSON, whatever the application's other tasks go as.
ROUTES = {"rerankq.*": {"queue": queue_of("interactive"), "serializer": "json"}}

_LANE_QUEUES = [queue_of(lane) for lane in LANES]
_STAND_IN = {"query": "?", "documents": ["?"]}
_AIMS = {"queue", "exchange", "routing_key"}
_PARTS = {"group": ("tasks",), "chain": ("tasks",), "chord": ("header", "body")}


def signature(
    query: str | None = None,
    documents: Sequence[str | Document | dict[str, Any]] | None = None,
    *,
    lane: Lane = "interactive",
    app: Celery | None = None,
    **fields: Any,
) -> Signature[dict[str, Any]]:
    """The task that ranks documents: to send, to chain, to group, or as another's `link`.

    Args:
        query: absent, as `documents`, where the task before it returns it.
        app: whose it is; the process's current application when absent.
        fields: any other field of `RerankRequest`, as `model`, whose workers alone answer; a `deadline` by the clock of
            Redis's machine.

    Raises:
        InvalidRequest: naming the field and what is wrong with it.
    """
    asked = {"query": query, "documents": documents, "lane": lane, **fields}
    given = {name: value for name, value in asked.items() if value is not None}
    request = parse_request(_STAND_IN | given)
    if request.return_documents:
        raise InvalidRequest(
            "return_documents: texts do not travel back; take them by each result's index, or give documents an id",
            {"field": "return_documents"},
        )
    options: dict[str, Any] = {
        **ROUTES["rerankq.*"],
        "queue": queue_of(lane, request.model),
        "argsrepr": "()",
    }
    if request.model is not None:
        sent_by: Any = app_or_default(app)
        _let_know(sent_by, [options["queue"]])
    if _STAND_IN.keys() <= given.keys():
        options["kwargsrepr"] = request.summary()
    absent = _STAND_IN.keys() - given.keys()
    kwargs = {name: value for name, value in request.to_wire().items() if name not in absent}
    return Signature(RERANK_TASK, kwargs=kwargs, options=options, app=app)


def route(app: Celery) -> None:
    """Let the application's tasks named `rerankq.…` find their lane, and what follows them its own queues.

    To be called once the application is configured.

    Raises:
        InvalidSettings: its messages or its results lie where no worker of ours looks.
    """
    for option in ("broker_transport_options", "result_backend_transport_options"):
        if (app.conf[option] or {}).get("global_keyprefix"):
            raise InvalidSettings(
                f"expected no global_keyprefix in {option}: rerankq's keys have none; ask with RerankClient instead"
            )
    _let_know(app, _LANE_QUEUES)
    if _routed(app) not in _LANE_QUEUES:
        known = app.conf.task_routes or ()
        app.conf.task_routes = [ROUTES, *(known if isinstance(known, list | tuple) else [known])]
        app.amqp.flush_routes()
        app.amqp.__dict__.pop("router", None)
    if not hasattr(app.amqp.send_task_message, "aims"):
        app.amqp.send_task_message = _aiming(app, app.amqp.send_task_message)


def _let_know(app: Celery, queues: Sequence[str]) -> None:
    """Have an application send to these queues that sends to none but those it is told of, and read none of them."""
    if not app.conf.task_create_missing_queues:
        for queue in queues:
            app.amqp.queues.add(queue)
        app.amqp.queues.deselect(queues)


def _routed(app: Celery) -> Any:
    """The queue that the application's own routes name for our task; asked without making its queues."""
    found: Any = routes.Router(routes.prepare(app.conf.task_routes), app=app).lookup_route(RERANK_TASK)
    queue = found.get("queue") if isinstance(found, Mapping) else found
    return getattr(queue, "name", queue)


def _aiming(app: Celery, send: Callable[..., Any]) -> Callable[..., Any]:
    """How the application sends, and no other of the process: Celery's signal tells nobody whose task it is."""

    def send_aimed(producer: Any, name: str, message: Any, **options: Any) -> Any:
        if name not in (RERANK_TASK, PACK_TASK):
            return send(producer, name, message, **options)
        _aim_what_follows(app, message.body)
        if (traceparent := traces.current()) is not None:
            message.headers.setdefault(traces.HEADER, traceparent)
        sent = send(producer, name, message, **options)
        _note_model(producer, message.body)
        return sent

    send_aimed.aims = True  # pyright: ignore[reportFunctionMemberAccess] - `route` may be called again
    return send_aimed


def _note_model(producer: Any, body: Any) -> None:
    """Let `rerankq models` list what waits for a model that nobody serves; the job is sent, whatever comes of it."""
    kwargs = body.get("kwargs") if isinstance(body, dict) else body[1]
    model = kwargs.get("model") if isinstance(kwargs, Mapping) else None
    if is_model_name(model):
        with suppress(AttributeError, RedisError), producer.channel.conn_or_acquire() as redis:
            redis.zadd(keys.MODELS, {model: time.time()})


def _aim_what_follows(app: Celery, body: Any) -> None:
    """Name the queue of each task after ours, by the application's routes: our workers do not know them."""
    attached = body if isinstance(body, dict) else body[2]
    for name in ("callbacks", "errbacks", "chain", "chord"):
        match attached.get(name):
            case Mapping() as followed:
                attached[name] = _aimed(app, followed)
            case [*several]:
                attached[name] = [_aimed(app, followed) for followed in several]
            case _:
                pass
    # Celery before 5.7 consumes, after a reconnect, from whatever it has sent to in the same process.
    app.amqp.queues.deselect([queue for queue in app.amqp.queues if queue.startswith(tuple(_LANE_QUEUES))])


def _aimed(app: Celery, task: Mapping[str, Any]) -> dict[str, Any]:
    kwargs, options = task.get("kwargs") or {}, task.get("options") or {}
    parts = _PARTS.get(task.get("subtask_type") or "", ())
    if parts:
        return {**task, "kwargs": {**kwargs, **{name: _aimed_part(app, kwargs[name]) for name in parts}}}
    if _AIMS & options.keys():
        return dict(task)
    aim = app.amqp.router.route({}, task["task"], task.get("args") or (), kwargs)
    named = {name: getattr(aim[name], "name", aim[name]) for name in _AIMS & aim.keys()}
    return {**task, "options": {**options, **named}}


def _aimed_part(app: Celery, part: Any) -> Any:
    return _aimed(app, part) if isinstance(part, Mapping) else [_aimed(app, task) for task in part]
