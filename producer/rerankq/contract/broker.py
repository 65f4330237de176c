"""A Celery app that speaks our wire and uses our transport: the worker's, Flower's, that of whoever asks a worker."""

from typing import Any

from celery import Celery
from kombu.serialization import register

from rerankq.contract import wire
from rerankq.contract.address import RedisAddress, read_address
from rerankq.contract.keys import queue_of
from rerankq.contract.redis_clients import asked_once
from rerankq.contract.transport.connection import LeasedAMQP, refuse_unknown_kombu

LEASE_SECONDS = 15  # a worker silent for this long has lost what it held; renewed every third of it
SWEEP_SECONDS = 2


def celery_app(
    name: str,
    broker_url: str,
    result_url: str | None,
    *,
    socket_timeout_seconds: float,
    result_ttl_seconds: int = 3600,
    lease_seconds: float = LEASE_SECONDS,
) -> Celery:
    """A Celery app on our transport. Nothing changes for other Celery applications of the process.

    Args:
        result_url: where answers are kept; None for who looks for them by itself.
        socket_timeout_seconds: how long any one Redis call may take before it counts as down.
        result_ttl_seconds: for how long answers are kept, by whoever stores them.
        lease_seconds: how long a silent worker keeps what it holds.

    Raises:
        UnknownKombu: the installed kombu is none that the transport was built for.
    """
    refuse_unknown_kombu()
    register(
        wire.SERIALIZER, wire.encode, wire.decode, content_type=wire.CONTENT_TYPE, content_encoding="utf-8"
    )
    broker = read_address(broker_url)
    results = None if result_url is None else read_address(result_url)
    backend = "disabled://" if results is None else results.for_celery()
    app = Celery(name, broker=broker.for_celery(), backend=backend, amqp=LeasedAMQP, set_as_current=False)
    app.conf.update(_wire_configuration(socket_timeout_seconds, result_ttl_seconds, lease_seconds))
    app.conf.broker_use_ssl = dict(broker.tls) or None
    app.conf.broker_transport_options |= {
        **broker.options,
        **_sentinel_options(broker, socket_timeout_seconds),
    }
    if results is not None:
        app.conf.update(_result_configuration(results))
        app.conf.result_backend_transport_options |= _sentinel_options(results, socket_timeout_seconds)
    return app


def _sentinel_options(address: RedisAddress, socket_timeout: float) -> dict[str, Any]:
    if not address.is_sentinel:
        return {}
    return {"master_name": address.master_name, "sentinel_kwargs": asked_once(socket_timeout)}


def _result_configuration(results: RedisAddress) -> dict[str, Any]:
    return {
        "redis_backend_use_ssl": dict(results.tls) or None,
        "redis_backend_health_check_interval": results.options.get("health_check_interval"),
        "redis_client_name": results.options.get("client_name"),
        "redis_socket_keepalive": results.scheme != "unix",  # Celery hands it to a socket that cannot take it
    }


def _wire_configuration(socket_timeout: float, result_ttl: int, lease: float) -> dict[str, Any]:
    timeouts = {"socket_timeout": socket_timeout, "socket_connect_timeout": min(socket_timeout, 2.0)}
    return {
        "task_serializer": "json",  # also that of control replies, callbacks and chords, which anybody may read
        "result_serializer": wire.SERIALIZER,
        "accept_content": wire.ACCEPTED,
        "result_accept_content": wire.ACCEPTED,
        "task_default_queue": queue_of("interactive"),
        "task_create_missing_queues": True,
        "broker_transport_options": {
            **timeouts,
            "socket_keepalive": True,
            "health_check_interval": 10,
            "retry_on_timeout": False,  # a blind resend of a push is a duplicate
            "visibility_timeout": lease,
            "unacked_restore_interval": SWEEP_SECONDS,
            "queue_order_strategy": "priority",  # strictly in -Q order; any other starves a lane or alternates
            "priority_steps": [0],  # lanes are lists of their own; Redis priorities would double the keys
        },
        "result_expires": result_ttl,
        "result_extended": False,  # would store the documents again
        "redis_socket_timeout": socket_timeout,
        "redis_socket_connect_timeout": min(socket_timeout, 2.0),
        "redis_retry_on_timeout": True,  # storing an answer twice is harmless
        "result_backend_transport_options": {"retry_policy": {"timeout": socket_timeout}},
        "task_ignore_result": False,
    }
