"""`rerankq serve`: the HTTP face of a running service."""

import importlib.util
from typing import Annotated, Any

import typer

from rerankq.local.failure import Unavailable


def serve(
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen at; beyond loopback keys are needed.", show_default="127.0.0.1"),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 takes a free one.", show_default="8787")
    ] = None,
) -> None:
    """Answer reranking clients by HTTP until Ctrl-C: Cohere, Jina, Voyage, TEI and those like them.

    [bold]Example:[/] rerankq serve --port 8787
    """
    if importlib.util.find_spec("uvicorn") is None or importlib.util.find_spec("starlette") is None:
        raise Unavailable("the HTTP face is not installed; `pip install 'rerankq[http]'` brings it")
    from rerankq.http.server import serve as serve_http
    from rerankq.http.settings import HttpSettings

    given: dict[str, Any] = {"http_host": host, "http_port": port}
    serve_http(HttpSettings.load(**{name: value for name, value in given.items() if value is not None}))
