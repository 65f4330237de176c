"""What a sender attached to a job that never ran: its chord, the tasks chained after it, its errbacks.

Read off the message, so that they end with the job, whoever tells of its end and however late. Callbacks are not among
them: they follow an answer.
"""

from typing import Any

from celery.app.task import Context
from kombu.serialization import prepare_accept_content

from rerankq.contract import wire
from rerankq.contract.transport.envelope import open_envelope
from rerankq_worker.headers import with_those_of_the_body

_SHAPES = {"chord": dict, "chain": list, "errbacks": list}


def attached_to(job_id: str, raw: bytes | None, channel: Any) -> Context | None:
    """The job as Celery's backend is told of it; None where nothing is attached, or nobody can read it.

    Args:
        raw: the message as it lay on its list.
        channel: kombu's, for what it knows of bodies.
    """
    try:
        envelope = open_envelope(raw or b"")
        envelope["properties"]["delivery_tag"] = job_id
        message = channel.Message(envelope, channel=channel, accept=prepare_accept_content(wire.ACCEPTED))
        body: Any = message.payload
        found = body if isinstance(body, dict) else body[2]
        attached = {name: found[name] for name, shape in _SHAPES.items() if _is(found.get(name), shape)}
        headers = with_those_of_the_body(message.headers, body)
    except Exception:  # noqa: BLE001 - whatever a decoder raises: it may have been set aside for that
        return None
    return Context({**headers, **attached, "id": job_id, "delivery_info": {}}) if attached else None


def _is(value: Any, shape: type) -> bool:
    parts: Any = value if isinstance(value, list) else [value]
    return isinstance(value, shape) and all(isinstance(part, dict) for part in parts)
