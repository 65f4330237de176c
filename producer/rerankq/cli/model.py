"""`rerankq model`: fetch, check or build a model, done by the worker's own program."""

from typing import Annotated

import typer

from rerankq.local import worker_program

model = typer.Typer(no_args_is_help=True, help="Fetch, check or build a model.")

_PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
Name = Annotated[str | None, typer.Argument(help="Hub id or directory.", show_default="RERANKQ_MODEL")]


@model.command(context_settings=_PASS_ON)
def pull(context: typer.Context, name: Name = None) -> None:
    """Download a model into the hub's cache, with progress.

    [bold]Example:[/] rerankq model pull BAAI/bge-reranker-v2-m3
    """
    _run("pull", name, context)


@model.command(context_settings=_PASS_ON)
def verify(context: typer.Context, name: Name = None) -> None:
    """Load a model and say whether it can be served from here.

    [bold]Example:[/] rerankq model verify ./my-reranker
    """
    _run("verify", name, context)


@model.command("build-small", context_settings=_PASS_ON)
def build_small(context: typer.Context) -> None:
    """Write the small model of the box and print its directory.

    [bold]Example:[/] rerankq model build-small
    """
    _run("build-small", None, context)


def _run(verb: str, name: str | None, context: typer.Context) -> None:
    arguments = [] if name is None else [name]
    raise typer.Exit(worker_program.run(verb, *arguments, *context.args))
