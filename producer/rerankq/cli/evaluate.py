"""`rerankq evaluate`: what judgements say of an output that is there."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from rerankq.cli import options
from rerankq.cli.screen import facts, out


def evaluate(
    output: Annotated[
        str,
        typer.Argument(metavar="OUT", help="What `rerankq bulk` wrote, in whatever format; or a TREC run."),
    ],
    qrels: options.Qrels = None,
    relevant_field: options.RelevantField = None,
    relevant_from: options.RelevantFrom = 1,
    format_: Annotated[
        str | None, typer.Option("--format", help="Of OUT; told by its extension and first line.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """nDCG@10 and MRR@10 of an output that is there, as trec_eval gives them.

    [bold]Example:[/] rerankq evaluate ranked.jsonl --qrels qrels/test.tsv
    """
    from rerankq.bulk.evaluate import evaluate as judged
    from rerankq.bulk.report import quality_facts

    verdict = judged(
        output, qrels, relevant_from=relevant_from, relevant_field=relevant_field, written_as=format_
    )
    if as_json:
        print(json.dumps({"output": output, **asdict(verdict)}, ensure_ascii=False))
    else:
        out.print(facts(quality_facts(verdict)), soft_wrap=True)
