"""What stands before and behind a job in somebody's chain or chord.

Before it: what other tasks returned, as fields of a request. Behind one that never ran: its chord, the tasks chained
after it, its errbacks; read off the message, so that they end with the job, whoever tells of its end and however late.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from celery.app.task import Context
from kombu.serialization import prepare_accept_content

from rerankq.contract.errors import InvalidRequest
from rerankq.contract.transport.envelope import open_envelope
from rerankq_worker.queue.headers import with_those_of_the_body

_SHAPES = {"chord": dict, "chain": list, "errbacks": list}


def fields_of(given: Mapping[str, Any] | list[Any]) -> Mapping[str, Any]:
    """What was returned before, as a request's fields: one mapping of them, documents, or a chord's list of either.

    Documents of several follow one another.

    Raises:
        InvalidRequest: two mappings say different things.
    """
    if isinstance(given, Mapping):
        return given
    fields: dict[str, Any] = {}
    documents: list[Any] = []
    for part in given:
        if isinstance(part, list):
            documents += part
        elif isinstance(part, dict) and isinstance(part.get("documents"), list):
            documents += part["documents"]
            _add(fields, {name: value for name, value in part.items() if name != "documents"})
        else:
            documents.append(part)
    return {**fields, "documents": documents}


def attached_to(job_id: str, raw: bytes | None, channel: Any, accept: Sequence[str]) -> Context | None:
    """The job as Celery's backend is told of it; None where nothing is attached, or nobody can read it.

    Args:
        raw: the message as it lay on its list.
        channel: kombu's, for what it knows of bodies.
        accept: the content that may be read.
    """
    try:
        envelope = open_envelope(raw or b"")
        envelope["properties"]["delivery_tag"] = job_id
        message = channel.Message(envelope, channel=channel, accept=prepare_accept_content(accept))
        body: Any = message.payload
        found = body if isinstance(body, dict) else body[2]
        attached = {name: found[name] for name, shape in _SHAPES.items() if _is(found.get(name), shape)}
        headers = with_those_of_the_body(message.headers, body)
    except Exception:  # noqa: BLE001 - whatever a decoder raises: it may have been set aside for that
        return None
    return Context({**headers, **attached, "id": job_id, "delivery_info": {}}) if attached else None


def _add(fields: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if fields.setdefault(name, value) != value:
            raise InvalidRequest(
                f"{name}: expected the tasks before this one to agree, got two values", {"field": name}
            )


def _is(value: Any, shape: type) -> bool:
    parts: Any = value if isinstance(value, list) else [value]
    return isinstance(value, shape) and all(isinstance(part, dict) for part in parts)
