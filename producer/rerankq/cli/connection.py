"""The service a command talks to: the one the settings name, or a local one for the length of the command."""

import signal
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from rerankq.cli.screen import progress

if TYPE_CHECKING:
    from redis import Redis

    from rerankq.client import RerankClient
    from rerankq.local.stack import LocalStack


@contextmanager
def connected(*, local: bool = False, model: str | None = None) -> Generator["RerankClient"]:
    """A client, closed at the end; with `local`, of a service that ends with it."""
    if local:
        with local_stack(model) as stack, stack.client() as client:
            yield client
        return
    from rerankq.client import RerankClient

    with RerankClient() as client:
        yield client


@contextmanager
def redis_for(doing: str) -> Generator["Redis"]:
    """The Redis of the settings itself, for what no client does; its errors arrive as ours."""
    from rerankq.contract.redis_clients import redis_client
    from rerankq.procedures import errors_as_ours
    from rerankq.settings import ClientSettings

    settings = ClientSettings.load()
    url = settings.broker_url.get_secret_value()
    with errors_as_ours(doing, settings), redis_client(url, settings.redis_timeout_seconds) as redis:
        yield redis


@contextmanager
def local_stack(model: str | None, settings: Mapping[str, str] | None = None) -> Generator["LocalStack"]:
    """A local service, its start shown on stderr; its worker with these settings besides."""
    from rerankq.local.stack import LocalStack

    with ExitStack() as service:
        for signal_number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signal_number) is signal.SIG_DFL:  # a command may have its own way to end
                signal.signal(signal_number, leave)
                service.callback(signal.signal, signal_number, signal.SIG_DFL)
        with progress() as show:
            stack = service.enter_context(LocalStack(model=model, settings=settings, on_progress=show))
        yield stack


def leave(signal_number: int, _frame: Any) -> NoReturn:
    """End at a signal as at Ctrl-C: what was begun is ended first."""
    raise SystemExit(128 + signal_number)  # unwinds the stack, which stops what it started
