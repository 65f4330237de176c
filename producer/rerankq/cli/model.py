"""`rerankq model`: what is here, fetch, check or build a model; done by the worker's own program."""

from pathlib import Path
from typing import Annotated

import typer

from rerankq.local import worker_program

model = typer.Typer(
    no_args_is_help=True, help="List, fetch, check or build models; `rerankq models` says which are served."
)

Name = Annotated[str | None, typer.Argument(help="Hub id or directory.", show_default="RERANKQ_MODEL")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Revision = Annotated[str | None, typer.Option(help="Commit, branch or tag of the Hub id.")]


@model.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the rerankers in the Hub's cache: size, family, what computes them, whether they are complete.

    [bold]Example:[/] rerankq model list
    """
    _run("list", *_flag(as_json))


@model.command()
def info(name: Name = None, revision: Revision = None, as_json: AsJson = False) -> None:
    """Tell what a model's files say: engine, length, what a score means, licence, the memory it takes here.

    [bold]Example:[/] rerankq model info BAAI/bge-reranker-v2-m3
    """
    _run("info", *_named(name, revision), *_flag(as_json))


@model.command()
def pull(name: Name = None, revision: Revision = None) -> None:
    """Download a model into the Hub's cache, with progress; go on with a download that was cut off.

    [bold]Example:[/] rerankq model pull BAAI/bge-reranker-v2-m3
    """
    _run("pull", *_named(name, revision))


@model.command()
def verify(name: Name = None, revision: Revision = None) -> None:
    """Load a model and say whether it can be served from here.

    [bold]Example:[/] rerankq model verify ./my-reranker
    """
    _run("verify", *_named(name, revision))


@model.command()
def convert(
    to: Annotated[Path, typer.Option(help="The directory to write; may be the model's own.")],
    name: Name = None,
    revision: Revision = None,
) -> None:
    """Write a directory that can be served out of pickled weights (`*.bin`), none of whose code is run.

    [bold]Example:[/] rerankq model convert some/reranker --to ./reranker
    """
    _run("convert", f"--to={to}", *_named(name, revision))


@model.command()
def quantize(
    pairs: Annotated[
        Path,
        typer.Option(
            help='JSON lines, plain or gzipped, {"query": …, "documents": […]} on each: what the model will be asked. '
            "400 pairs are used, one of each line before a second of any; every fourth only tells what int8 costs."
        ),
    ],
    to: Annotated[Path, typer.Option(help="The directory to write, new or empty.")],
    name: Name = None,
    revision: Revision = None,
) -> None:
    """Write a copy of a model whose int8 is calibrated on your own pairs, and say what int8 costs with and without.

    The weights stay as they are; the copy is served in int8 with RERANKQ_DTYPE=int8.

    [bold]Example:[/] rerankq model quantize some/reranker --pairs ./jobs.jsonl --to ./reranker-int8
    """
    _run("quantize", f"--pairs={pairs}", f"--to={to}", *_named(name, revision))


@model.command("build-small")
def build_small() -> None:
    """Write the small model of the box and print its directory.

    [bold]Example:[/] rerankq model build-small
    """
    _run("build-small")


def _named(name: str | None, revision: str | None) -> list[str]:
    named = [] if revision is None else [f"--revision={revision}"]
    return named if name is None else [*named, "--", name]


def _flag(as_json: bool) -> list[str]:
    return ["--json"] if as_json else []


def _run(verb: str, *arguments: str) -> None:
    raise typer.Exit(worker_program.run(verb, *arguments))
