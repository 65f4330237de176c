"""`rerankq up`: a local service that keeps running in this terminal, Flower and the HTTP face beside it."""

import importlib.util
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rerankq.cli import options, serve
from rerankq.cli.connection import local_stack
from rerankq.cli.screen import err, out, short
from rerankq.local.failure import Unavailable
from rerankq.running import announced

if TYPE_CHECKING:
    from rerankq.contract.heartbeats import WorkerStatus
    from rerankq.local.stack import LocalStack

FLOWER_PORT = 5555
HTTP_PORT = 8787
LOG_PERIOD_SECONDS = 0.3


def up(
    model: options.StackModel = None,
    flower: Annotated[
        bool | None, typer.Option(help="Show the workers on a web page.", show_default="if installed")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Flower's port.", show_default=f"{FLOWER_PORT}, or a free one"),
    ] = None,
    http: Annotated[
        bool | None,
        typer.Option(help="Answer reranking clients, as `rerankq serve` does.", show_default="if installed"),
    ] = None,
    http_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Its port.", show_default=f"{HTTP_PORT}, or a free one"),
    ] = None,
) -> None:
    """Run Redis, a worker, Flower and an HTTP address here until Ctrl-C; the worker's log follows on the screen.

    [bold]Example:[/] rerankq up --model BAAI/bge-reranker-v2-m3
    """
    flower_port = _flower_port(flower, port)
    http_port = _http_port(http, http_port)
    with local_stack(model) as stack, announced(stack.broker_url) as is_found:
        if flower_port is not None:
            _start_flower(stack, flower_port)
        if http_port is not None:
            _start_http(stack, http_port)
        _show_addresses(stack, flower_port, http_port, is_found=is_found)
        try:
            _follow(stack)
        except KeyboardInterrupt:
            err.print("\nstopping", style="dim")


def _flower_port(wanted: bool | None, port: int | None) -> int | None:
    """None: no Flower."""

    installed = importlib.util.find_spec("flower") is not None
    if wanted is False or (wanted is None and not installed):
        return None
    if not installed:
        raise Unavailable(
            "Flower is not installed; `pip install 'rerankq[flower]'` brings it, or use --no-flower"
        )
    return _port(port, FLOWER_PORT, "--port")


def _http_port(wanted: bool | None, port: int | None) -> int | None:
    """None: no HTTP."""
    if wanted is False or (wanted is None and not serve.is_installed()):
        return None
    if not serve.is_installed():
        raise Unavailable(f"{serve.MISSING}, or use --no-http")
    return _port(port, HTTP_PORT, "--http-port")


def _port(wanted: int | None, usual: int, option: str) -> int:
    from rerankq.local.redis_server import free_port

    if wanted is None:
        return usual if _is_free(usual) else free_port()
    if not _is_free(wanted):
        raise Unavailable(f"port {wanted} is taken; choose another with {option}")
    return wanted


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _start_flower(stack: "LocalStack", port: int) -> None:
    app = [sys.executable, "-m", "celery", "-A", "rerankq_worker.app:app"]
    # As it is deployed: nobody has logged in, so its buttons could only fail.
    stack.start_child("flower", [*app, "flower", "--read_only=true", "--address=127.0.0.1", f"--port={port}"])


def _start_http(stack: "LocalStack", port: int) -> None:
    command = [sys.executable, "-m", "rerankq.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
    stack.start_child("http", command)
    while _is_free(port):  # what is printed next can be tried at once
        stack.refuse_a_dead_child()
        time.sleep(LOG_PERIOD_SECONDS)


def _show_addresses(
    stack: "LocalStack", flower_port: int | None, http_port: int | None, *, is_found: bool
) -> None:
    worker = _worker_in_service(stack)
    out.print("rerankq is up; Ctrl-C stops all of it, and what its Redis holds is gone then.", style="bold")
    lines = {
        "worker": f"{worker.device} {worker.dtype}, model {worker.model} {short(worker.revision)}",
        "broker": stack.broker_url,
        "http": f"http://127.0.0.1:{http_port}" if http_port else "not running",
        "flower": f"http://127.0.0.1:{flower_port}" if flower_port else "not running",
        "logs": str(stack.directory),
    }
    for name, value in lines.items():
        out.print(f"  {name:8}{value}", markup=False, soft_wrap=True)
    out.print("In another terminal:")
    if not is_found:  # another one is up, which clients find in its place
        out.print(f"  export RERANKQ_BROKER_URL={stack.broker_url}", markup=False, soft_wrap=True)
    out.print(
        '  rerankq rerank "capital of China" "Shanghai is large." "Beijing is the capital."',
        markup=False,
        soft_wrap=True,
    )
    if http_port is not None:
        curl = serve.example(lines["http"], asks_for_key=_asks_for_key())
        out.print(f"  {curl}", markup=False, soft_wrap=True)


def _asks_for_key() -> bool:
    from rerankq.http.settings import HttpSettings

    return bool(HttpSettings.load().keys)


def _worker_in_service(stack: "LocalStack") -> "WorkerStatus":
    """The first worker whose engine has told what it serves; one that has last seen it loading knows no model."""
    with stack.client() as client:
        while True:
            for worker in client.workers():
                if worker.model:
                    return worker
            stack.refuse_a_dead_child()
            time.sleep(LOG_PERIOD_SECONDS)


def _follow(stack: "LocalStack") -> None:
    """Print the worker's log as it grows."""
    with Path(stack.worker_log).open(encoding="utf-8", errors="replace") as log:
        while True:
            sys.stdout.write(log.read())
            sys.stdout.flush()
            stack.refuse_a_dead_child()
            time.sleep(LOG_PERIOD_SECONDS)
