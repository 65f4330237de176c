"""`rerankq serve`: the HTTP face of a running service."""

import importlib.util
import logging
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankq.cli.failures import exit_code
from rerankq.cli.screen import out
from rerankq.contract.errors import RerankError
from rerankq.local.failure import Unavailable

if TYPE_CHECKING:
    from rerankq.contract.log.process import LineHandler

MISSING = "the HTTP face is not installed; `pip install 'rerankq[http]'` brings it"


def serve(
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen at; beyond loopback keys are needed.", show_default="127.0.0.1"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 takes a free one.", show_default="8787")
    ] = None,
) -> None:
    """Answer reranking clients by HTTP until Ctrl-C, in front of the Redis that RERANKQ_BROKER_URL names.

    [bold]Example:[/] rerankq serve --port 8787

    What it prints is the base URL for clients of Cohere, Jina, Voyage, TEI,
    vLLM, infinity, Pinecone and Mixedbread; where stdout is no terminal, as a
    line of the log. /health tells whether a worker is ready. One line per
    request goes to stderr, without any text.

    RERANKQ_HTTP_KEYS holds the keys that callers show; without one, only
    programs of this machine are answered.

    SIGTERM and Ctrl-C let what is under way be answered first. Exit codes:
    0 stopped, 2 wrong settings, 3 the port is taken, 130 interrupted.
    """
    if not is_installed():
        raise Unavailable(MISSING)
    from rerankq.contract.log.process import speak_as, tell_stacks_on
    from rerankq.http.server import serve as serve_http
    from rerankq.http.settings import HttpSettings

    given: dict[str, Any] = {"http_host": host, "http_port": port}
    settings = HttpSettings.load(**{name: value for name, value in given.items() if value is not None})
    log = speak_as("http", settings.log, settings.log_level, prints=False)
    tell_stacks_on(signal.SIGUSR1)
    try:
        serve_http(settings, lambda url: _show(url, log, asks_for_key=bool(settings.keys)))
    except RerankError as error:  # there is a log by now, and it has one form
        logging.getLogger(__name__).critical("%s", error.message)
        raise typer.Exit(exit_code(error)) from None


def is_installed() -> bool:
    """Whether this environment has what the HTTP face stands on."""
    return all(importlib.util.find_spec(name) for name in ("uvicorn", "starlette", "httptools"))


def example(url: str, *, asks_for_key: bool) -> str:
    """A request to try it with, for a shell."""
    key = ' -H "Authorization: Bearer $KEY"' if asks_for_key else ""
    body = '{"query": "capital of China", "documents": ["Shanghai is large.", "Beijing is the capital."]}'
    return f"curl {url}/v1/rerank{key} -d '{body}'"


def _show(url: str, log: "LineHandler", *, asks_for_key: bool) -> None:
    """The address; where no person looks it is a line among those of the log, which may lie in the same file."""
    whom = "whoever shows a key" if asks_for_key else "programs of this machine"
    told = f"rerankq answers {whom} at {url} until Ctrl-C"
    if out.is_terminal:
        out.print(f"{told}. Try:", markup=False, soft_wrap=True)
        out.print(f"  {example(url, asks_for_key=asks_for_key)}", markup=False, soft_wrap=True)
    elif sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison] - with `>&-` it is
        log.into(sys.stdout.fileno(), log.lines).pass_on(log.lines.line(told))
