"""The tree of commands."""

from typing import Annotated

import typer

import rerankq
from rerankq.cli import acts, jobs
from rerankq.cli.bench import bench
from rerankq.cli.bulk import bulk
from rerankq.cli.dead import dead
from rerankq.cli.demo import demo
from rerankq.cli.doctor import doctor
from rerankq.cli.evaluate import evaluate
from rerankq.cli.model import model
from rerankq.cli.operate import models, workers
from rerankq.cli.rerank import rerank
from rerankq.cli.serve import serve
from rerankq.cli.settings import settings
from rerankq.cli.top import lanes, top
from rerankq.cli.up import up

app = typer.Typer(
    name="rerankq",
    help="Durable cross-encoder reranking: order documents by relevance, through a queue that loses nothing.",
    epilog="First time here: `rerankq demo`. Exit codes: 0 done, 1 job failed, 2 wrong input, 3 unavailable.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_TRY, _ASK, _RUN = "Try", "Ask", "Operate"
_SPREAD_GLOB = {"allow_extra_args": True}  # so that `bulk` can say what they are

app.command(rich_help_panel=_TRY)(demo)
app.command(rich_help_panel=_TRY)(up)
app.command(rich_help_panel=_ASK)(rerank)
app.command(rich_help_panel=_ASK, context_settings=_SPREAD_GLOB)(bulk)
app.command(rich_help_panel=_ASK)(evaluate)
app.command(rich_help_panel=_ASK)(jobs.submit)
app.command(rich_help_panel=_ASK)(jobs.status)
app.command(rich_help_panel=_ASK)(jobs.result)
app.command(rich_help_panel=_ASK)(jobs.cancel)
app.command(rich_help_panel=_RUN)(bench)
app.command(rich_help_panel=_RUN)(serve)
app.command(rich_help_panel=_RUN)(doctor)
app.command(rich_help_panel=_RUN)(top)
app.command(rich_help_panel=_RUN)(workers)
app.command(rich_help_panel=_RUN)(models)
app.command(rich_help_panel=_RUN)(lanes)
app.command(rich_help_panel=_RUN)(acts.pause)
app.command(rich_help_panel=_RUN)(acts.resume)
app.command(rich_help_panel=_RUN)(acts.drain)
app.command(rich_help_panel=_RUN)(settings)
app.add_typer(dead, name="dead", rich_help_panel=_RUN)
app.add_typer(model, name="model", rich_help_panel=_RUN)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"rerankq {rerankq.__version__}")
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction] - typer calls it
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None: ...
