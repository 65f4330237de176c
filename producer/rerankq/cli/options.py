"""The options that several commands share, each defined once."""

from pathlib import Path
from typing import Annotated

import typer

from rerankq.contract.messages import Lane

_REQUEST = "Request"
_SERVICE = "Service"
_JUDGEMENTS = "Judgements"

Query = Annotated[str, typer.Argument(help="What is looked for.", show_default=False)]
Documents = Annotated[
    list[str] | None,
    typer.Argument(help="Candidates; without any, lines of --file or of standard input.", show_default=False),
]
JobId = Annotated[str, typer.Argument(help="What `rerankq submit` printed.", show_default=False)]

File = Annotated[
    Path | None, typer.Option("--file", "-f", help="Documents, one per line; `-` is standard input.")
]
TopN = Annotated[
    int | None,
    typer.Option("--top-n", "-n", min=1, help="Only the best N results.", rich_help_panel=_REQUEST),
]
RawScores = Annotated[
    bool,
    typer.Option("--raw-scores", help="Scores as logits instead of 0 to 1.", rich_help_panel=_REQUEST),
]
MaxTokensPerDoc = Annotated[
    int | None,
    typer.Option(min=1, help="Read only this many tokens of each document.", rich_help_panel=_REQUEST),
]
Truncation = Annotated[
    bool,
    typer.Option(help="Cut a document that is too long, or fail the job.", rich_help_panel=_REQUEST),
]
Deadline = Annotated[
    float | None,
    typer.Option(
        min=0.001, help="Seconds from now after which the answer is of no use.", rich_help_panel=_REQUEST
    ),
]
Partial = Annotated[
    bool,
    typer.Option(
        "--partial", help="At the deadline answer with what has been scored.", rich_help_panel=_REQUEST
    ),
]
LaneOption = Annotated[Lane, typer.Option(help="The queue it waits in.", rich_help_panel=_REQUEST)]

Qrels = Annotated[
    str | None,
    typer.Option(
        help="Judgements (BEIR's TSV or TREC's) by id; without it what rows carry as `relevant`.",
        rich_help_panel=_JUDGEMENTS,
    ),
]
RelevantField = Annotated[
    str | None,
    typer.Option(
        help="Where a row has its judgements: grades by id, ids, a grade per document, or a field of documents.",
        rich_help_panel=_JUDGEMENTS,
    ),
]
RelevantFrom = Annotated[
    int,
    typer.Option(min=1, help="The lowest grade that MRR counts as relevant.", rich_help_panel=_JUDGEMENTS),
]

Timeout = Annotated[
    float | None, typer.Option(min=0, help="Seconds to wait for the answer.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, errors included (on stderr).")]
Local = Annotated[
    bool,
    typer.Option(
        "--local",
        help="Start a Redis and a worker for the length of this command.",
        rich_help_panel=_SERVICE,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="With --local: the model to load (hub id, directory, `small`). Else: fail unless it is the one served.",
        rich_help_panel=_SERVICE,
    ),
]
StackModel = Annotated[
    str | None,
    typer.Option(help="Hub id, directory, or `small`, the one in the box.", show_default="small"),
]
