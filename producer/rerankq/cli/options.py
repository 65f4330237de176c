"""The options that several commands share, each defined once."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rerankq.contract.messages import Lane, LongDocuments

_request, _service, _judgements = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("Request", "Service", "Judgements")
)

Query = Annotated[str, typer.Argument(help="What is looked for.", show_default=False)]
Documents = Annotated[
    list[str] | None,
    typer.Argument(help="Candidates; without any, lines of --file or of standard input.", show_default=False),
]
JobId = Annotated[str, typer.Argument(help="What `rerankq submit` printed.", show_default=False)]

File = Annotated[
    Path | None, typer.Option("--file", "-f", help="Documents, one per line; `-` is standard input.")
]
TopN = Annotated[int | None, _request("--top-n", "-n", min=1, help="Only the best N results.")]
RawScores = Annotated[
    bool, _request("--raw-scores", help="Scores as logits instead of on the model's scale, mostly 0 to 1.")
]
MaxTokensPerDoc = Annotated[int | None, _request(min=1, help="Read only this many tokens of each document.")]
Truncation = Annotated[bool, _request(help="Cut a document that is too long, or fail the job.")]
LongDocumentsOption = Annotated[
    LongDocuments | None,
    _request(
        "--long-documents",
        help="Of a document that is longer than the model reads: its beginning, or all of it in overlapping windows, "
        "of which the best gives its score.",
        show_default="truncate",
    ),
]
MaxWindows = Annotated[
    int | None, _request("--max-windows", min=1, help="Read only the first N windows of each document.")
]
Threshold = Annotated[float | None, _request(help="Leave out results whose score is below this.")]
Instruction = Annotated[
    str | None, _request(help="What makes a document relevant, for models that read one (Qwen3-Reranker).")
]
Deadline = Annotated[
    float | None, _request(min=0.001, help="Seconds from now after which the answer is of no use.")
]
Partial = Annotated[bool, _request("--partial", help="At the deadline answer with what has been scored.")]
LaneOption = Annotated[Lane, _request(help="The queue it waits in.")]

Qrels = Annotated[
    str | None,
    _judgements(help="Judgements (BEIR's TSV or TREC's) by id; without it what rows carry as `relevant`."),
]
RelevantField = Annotated[
    str | None,
    _judgements(
        help="Where a row has its judgements: grades by id, ids, a grade per document, or a field of documents."
    ),
]
RelevantFrom = Annotated[int, _judgements(min=1, help="The lowest grade that MRR counts as relevant.")]

Timeout = Annotated[
    float | None, typer.Option(min=0, help="Seconds to wait for the answer.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, errors included (on stderr).")]
Local = Annotated[
    bool, _service("--local", help="Start a Redis and a worker for the length of this command.")
]
Model = Annotated[
    str | None,
    _service(
        help="With --local: the model to load (hub id, directory, `small`). Else: the one whose workers shall answer "
        "(`name` or `name@revision`)."
    ),
]
StackModel = Annotated[
    str | None, typer.Option(help="Hub id, directory, or `small`, the one in the box.", show_default="small")
]
