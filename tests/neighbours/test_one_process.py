"""One process of somebody's own, with our client or our worker's application in it: what was there stays as it was."""

import subprocess
import sys

import pytest

LOOK = """
import copy, logging, signal, sys, threading, warnings
import celery, kombu.transport, numpy, redis.connection
from celery import signals
from celery.worker.control import Panel
from kombu import pools
from kombu.serialization import registry
from rerankq.contract.transport.hooks import hooks

shop = celery.Celery("shop", broker="redis://127.0.0.1:1/0")

@shop.task
def consume(): pass

def look():
    signalled = [name for name in dir(signals) if isinstance(getattr(signals, name), signals.Signal)]
    loggers = [logging.getLogger(name) for name in ("", "celery", "celery.backends.base", "kombu", "redis", "amqp")]
    return {
        "what the transport leaves to others": copy.copy(hooks),
        "current application": celery.current_app._get_current_object(),
        "its settings": dict(shop.conf),
        "its tasks": sorted(shop.tasks),
        "transports": dict(kombu.transport.TRANSPORT_ALIASES),
        "transport": kombu.Connection("redis://").get_transport_cls(),
        "limits of pools": (pools.get_limit(), len(pools.connections), len(pools.producers)),
        "content": (registry._default_encode, set(registry._disabled_content_types)),
        "control": dict(Panel.data),
        "signals": {name: len(getattr(signals, name).receivers or ()) for name in signalled if name != "celeryd_init"},
        "loggers": [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers],
        "warnings": list(warnings.filters),
        "unix signals": [signal.getsignal(number) for number in signal.valid_signals()],
        "hooks": (sys.excepthook, threading.excepthook),
        "threads": threading.active_count(),
    }

before = look()
{what}
after = look()
changed = sorted(name for name in before if before[name] != after[name])
assert not changed, (changed, [(before[name], after[name]) for name in changed])
"""
PRESENCES = {
    "a client": """
from rerankq import BrokerUnavailable, RerankClient
with RerankClient("redis://127.0.0.1:1/0") as client:
    try: client.submit("q", ["a"])
    except BrokerUnavailable: pass
""",
    "a client for asyncio": """
import asyncio
from rerankq import AsyncRerankClient, BrokerUnavailable
async def ask():
    async with AsyncRerankClient("redis://127.0.0.1:1/0") as client:
        try: await client.submit("q", ["a"])
        except BrokerUnavailable: pass
asyncio.run(ask())
""",
    "the worker's application, built twice": """
from rerankq_worker.app import build_app
from rerankq_worker.settings import WorkerSettings
build_app(WorkerSettings.load())
""",
    "an application on our transport": """
from rerankq.contract.broker import celery_app
celery_app("other", "redis://127.0.0.1:1/0", None, socket_timeout_seconds=1)
""",
    "bulk": "import rerankq.bulk.run, rerankq.cli.app",
}


@pytest.mark.parametrize("what", PRESENCES.values(), ids=PRESENCES.keys())
def test_nothing_of_the_process_is_changed_by(what: str) -> None:
    environment = {"RERANKQ_BROKER_URL": "redis://127.0.0.1:1/0"}
    done = subprocess.run(
        [sys.executable, "-c", LOOK.replace("{what}", what)], env=environment, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
