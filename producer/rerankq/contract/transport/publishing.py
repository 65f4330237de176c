"""A task as it lies on a list: the message that Celery's protocol 2 has. Takes no Celery and no kombu.

A producer stands beside whatever version of them its application is bound to.
"""

import base64
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from rerankq.contract import wire
from rerankq.contract.transport.envelope import Envelope

_NO_CANVAS = b'{"callbacks":null,"errbacks":null,"chain":null,"chord":null}'
_TIMELESS: Mapping[str, Any] = dict.fromkeys(
    ("shadow", "eta", "expires", "group", "group_index", "parent_id")
)


def task_message(
    task: str,
    job_id: str,
    queue: str,
    fields: bytes,
    headers: Mapping[str, Any],
    *,
    summary: str,
    compress: bool,
) -> Envelope:
    """The message of a task.

    Args:
        fields: the task's keyword arguments, as JSON.
        headers: further ones than those that every task has.
        summary: what logs and Flower show of the arguments.
    """
    body = b"[[]," + fields + b"," + _NO_CANVAS + b"]"
    compression = {"compression": wire.COMPRESSION} if compress else {}
    return {
        "body": base64.b64encode(wire.compress(body) if compress else body).decode(),
        "content-encoding": "utf-8",
        "content-type": wire.CONTENT_TYPE,
        "headers": {
            "lang": "py",
            "task": task,
            "id": job_id,
            "root_id": job_id,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": "()",
            "kwargsrepr": summary,
            "origin": "rerankq",
            "ignore_result": False,
            **_TIMELESS,
            **compression,
            **headers,
        },
        "properties": {
            "correlation_id": job_id,
            "reply_to": "",
            "delivery_mode": 2,
            "delivery_info": {"exchange": queue, "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": uuid4().hex,
        },
    }
