"""`rerankq bulk`: a file in, a file out."""

import json
import os
import shlex
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rerankq.bulk import STANDARD_STREAM
from rerankq.bulk.progress import Kind
from rerankq.cli import options
from rerankq.cli.connection import connected
from rerankq.cli.failures import JOB_FAILED, UNAVAILABLE, WRONG_INPUT, exit_code, in_words
from rerankq.cli.screen import err, facts, out
from rerankq.contract.errors import RerankError

if TYPE_CHECKING:
    from rerankq.bulk import Summary, Task

INTERRUPTED = 130

_INPUT, _ROWS, _OUTPUT, _RUN, _REQUEST = "Input", "Rows", "Output", "Run", "Request"


def _option(help_: str, panel: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help_, rich_help_panel=panel, **more)


Text = str | None
_Input = Annotated[
    str,
    typer.Argument(
        metavar="IN",
        help="JSONL, CSV, TSV, Parquet, Arrow, a TREC run; a directory, a quoted glob, s3://…; `-` is stdin.",
    ),
]
_Output = Annotated[
    str, typer.Argument(metavar="OUT", help="Where the rankings go; `-` is stdout, a pipe or device will do.")
]
_Format = Annotated[
    Text,
    _option(
        "jsonl, openai-batch, rank-llm, csv, tsv, trec, parquet, arrow or (a row per document) long-parquet, "
        "long-arrow; told by IN.",
        _INPUT,
        "--format",
    ),
]
_QueryField = Annotated[
    Text, _option("What the input calls the query; may be a path, `data.question`.", _INPUT, "--query-field")
]
_DocumentsField = Annotated[
    Text,
    _option(
        "What it calls the documents: `passages.passage_text`; `positive,negative` are strung together.",
        _INPUT,
        "--documents-field",
    ),
]
_IdField = Annotated[Text, _option("What it calls the id of a job; in CSV `query_id`.", _INPUT, "--id-field")]
_TextField = Annotated[
    Text,
    _option(
        "What it calls the text of a document: `node.text`; `title,text` are joined.", _INPUT, "--text-field"
    ),
]
_DocumentIdField = Annotated[
    Text, _option("What it calls the id of a document; in CSV `doc_id`.", _INPUT, "--document-id-field")
]
_Columns = Annotated[
    Text,
    _option(
        "Names the columns of a CSV or TSV without a header, `qid,pid,query,passage`: its first line is data.",
        _INPUT,
        "--columns",
    ),
]
_Delimiter = Annotated[
    Text, _option("Between the columns of a table; `,` in CSV, a tab in TSV.", _INPUT, "--delimiter")
]
_Quote = Annotated[
    bool | None,
    _option("Whether quotes enclose a table's fields: CSV's do, TSV's do not.", _INPUT, "--quote/--no-quote"),
]
_Encoding = Annotated[str, _option("Of IN: utf-8, utf-16, gbk, …", _INPUT, "--encoding")]
_Queries = Annotated[
    Text, _option("Texts of a TREC run's queries: JSON lines, or `qid<tab>text`.", _INPUT, "--queries")
]
_Corpus = Annotated[
    Text,
    _option(
        "Texts of its documents: BEIR's, Anserini's or MS MARCO's JSON lines, or `pid<tab>text`.",
        _INPUT,
        "--corpus",
    ),
]
_Depth = Annotated[
    int | None, _option("Only so many candidates of each query of a run.", _INPUT, "--depth", min=1)
]
_Missing = Annotated[
    Literal["fail", "skip"],
    _option(
        "Documents of a run that the corpus lacks: fail their row, or go on without them.",
        _INPUT,
        "--missing",
    ),
]
_Where = Annotated[
    list[str] | None,
    _option(
        "field=value or field!=value, as text or JSON; may be a path, and be repeated. Of a table: its lines.",
        _ROWS,
        "--where",
    ),
]
_Skip = Annotated[
    int, _option("Pass over so many rows first, of those that --where keeps.", _ROWS, "--skip", min=0)
]
_Limit = Annotated[int | None, _option("Take so many of the rest.", _ROWS, "--limit", min=1)]
_Shard = Annotated[
    Text,
    _option(
        "3/8: of these the third and each eighth after it, for the third of eight hosts.", _ROWS, "--shard"
    ),
]
_OutputFormat = Annotated[Text, _option("Told by OUT; of a pipe as the input.", _OUTPUT, "--output-format")]
_OutputColumns = Annotated[
    Text,
    _option(
        "Keys or columns of the output, in order: id,results,lang; -name leaves one out.",
        _OUTPUT,
        "--output-columns",
    ),
]
_Ordered = Annotated[
    bool, _option("In the order of the input, or each as it comes.", _OUTPUT, "--ordered/--unordered")
]
_Documents = Annotated[bool, _option("Put the documents into the results.", _OUTPUT, "--return-documents")]
_PackPairs = Annotated[
    int | None,
    _option("Pairs in one message.", _RUN, "--pack-pairs", min=1, show_default="1024 on GPUs, 256 on CPUs"),
]
_WindowMegabytes = Annotated[
    int, _option("Megabytes of input that may be under way.", _RUN, "--window-megabytes", min=1)
]
_Restart = Annotated[bool, _option("Forget an earlier run and overwrite its output.", _RUN, "--restart")]
_Overwrite = Annotated[
    bool, _option("With --restart: also files that no run of `bulk` has begun.", _RUN, "--overwrite")
]
_RetryErrors = Annotated[bool, _option("Ask again what failed.", _RUN, "--retry-errors")]
_DryRun = Annotated[bool, _option("Read, validate, count and estimate; send nothing.", _RUN, "--dry-run")]
_PairsPerSecond = Annotated[
    float | None,
    _option(
        "The pace that --dry-run reckons with; else what the workers have measured, else one H100's.",
        _RUN,
        "--pairs-per-second",
        min=0.001,
    ),
]
_Progress = Annotated[Kind, _option("auto: a bar on a terminal, else a line every 10 s.", _RUN, "--progress")]
_SummaryJson = Annotated[
    Path | None, _option("Write the summary there as JSON; `-` is stdout.", _RUN, "--summary-json")
]


def bulk(
    context: typer.Context,
    input_: _Input,
    output: _Output,
    format_: _Format = None,
    query_field: _QueryField = None,
    documents_field: _DocumentsField = None,
    id_field: _IdField = None,
    text_field: _TextField = None,
    document_id_field: _DocumentIdField = None,
    relevant_field: options.RelevantField = None,
    columns: _Columns = None,
    delimiter: _Delimiter = None,
    quote: _Quote = None,
    encoding: _Encoding = "utf-8",
    queries: _Queries = None,
    corpus: _Corpus = None,
    depth: _Depth = None,
    missing: _Missing = "fail",
    qrels: options.Qrels = None,
    relevant_from: options.RelevantFrom = 1,
    where: _Where = None,
    skip: _Skip = 0,
    limit: _Limit = None,
    shard: _Shard = None,
    output_format: _OutputFormat = None,
    output_columns: _OutputColumns = None,
    ordered: _Ordered = True,
    return_documents: _Documents = False,
    top_n: options.TopN = None,
    raw_scores: options.RawScores = False,
    max_tokens_per_doc: options.MaxTokensPerDoc = None,
    truncation: options.Truncation = True,
    pack_pairs: _PackPairs = None,
    window_megabytes: _WindowMegabytes = 32,
    restart: _Restart = False,
    overwrite: _Overwrite = False,
    retry_errors: _RetryErrors = False,
    dry_run: _DryRun = False,
    pairs_per_second: _PairsPerSecond = None,
    progress: _Progress = "auto",
    summary_json: _SummaryJson = None,
    local: options.Local = False,
    model: options.Model = None,
) -> None:
    """Rerank a whole file. Run the same command again after any interruption: it goes on where it was.

    Rows that fail go to OUT.errors.jsonl with their reason. Exit codes: 0 all done, 1 some rows failed, 2 wrong
    usage or input, 3 unavailable, 130 interrupted.

    [bold]Example:[/] rerankq bulk jobs.jsonl.gz ranked.jsonl --top-n 10
    """
    from rerankq.bulk import Task
    from rerankq.bulk.output.streams import is_stdout

    if context.args:
        raise typer.BadParameter(
            f"expected one IN and one OUT, got {2 + len(context.args)} paths; quote a glob, as 'part-*.jsonl', or name "
            "the folder"
        )
    requested = {
        "top_n": top_n,
        "raw_scores": raw_scores or None,
        "max_tokens_per_doc": max_tokens_per_doc,
        "truncation": None if truncation else False,
        "model": None if local else model,
    }
    task = Task(
        input_,
        output,
        format=format_,
        output_format=output_format,
        output_columns=_split(output_columns) or (),
        names={
            "query": query_field,
            "documents": documents_field,
            "id": id_field,
            "text": text_field,
            "document_id": document_id_field,
            "relevant": relevant_field,
        },
        columns=_split(columns),
        delimiter=None if delimiter is None else _one_character(delimiter),
        is_quoted=quote,
        encoding=encoding,
        queries=queries,
        corpus=corpus,
        qrels=qrels,
        relevant_from=relevant_from,
        depth=depth,
        skips_missing=missing == "skip",
        where=where or (),
        skip=skip,
        limit=limit,
        shard=shard,
        is_ordered=ordered,
        with_documents=return_documents,
        options={name: value for name, value in requested.items() if value is not None},
        pack_pairs=pack_pairs,
        also_written=[] if summary_json is None else [str(summary_json)],
    )
    if dry_run:
        _show_findings(task, pairs_per_second, summary_json)
        return
    if summary_json is not None and is_stdout(output) and is_stdout(str(summary_json)):
        raise typer.BadParameter(
            "stdout cannot hold the rows and their summary; name a file for one of them",
            param_hint="--summary-json",
        )
    summary = _run_or_leave(
        task,
        window_bytes=window_megabytes * 1_000_000,
        progress=progress,
        restart=restart,
        overwrite=overwrite,
        retry_errors=retry_errors,
        local=local,
        model=model,
        summary_json=summary_json,
    )
    if summary.failed:
        raise typer.Exit(JOB_FAILED)


def _split(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",")]


def _one_character(delimiter: str) -> str:
    named = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
    if len(named) != 1:
        raise typer.BadParameter(f"expected one character, got {delimiter!r}", param_hint="--delimiter")
    return named


def _run_or_leave(
    task: "Task",
    *,
    window_bytes: int,
    progress: Kind,
    restart: bool,
    overwrite: bool,
    retry_errors: bool,
    local: bool,
    model: str | None,
    summary_json: Path | None,
) -> "Summary":
    """The run's summary, shown; an end before its time is told with the command that goes on from there."""
    from rerankq.bulk import BulkRun
    from rerankq.bulk.progress import progress_of

    shown = None
    try:
        _end_in_order_when_told_to()
        with connected(local=local, model=model) as client:
            shown = progress_of(progress)
            run = BulkRun(task, client, progress=shown, window_bytes=window_bytes)
            summary = run.run(restart=restart, overwrite=overwrite, retry_errors=retry_errors)
        shown.close()
        _show(summary, summary_json)
        return summary
    except KeyboardInterrupt as interrupt:
        raise _end(_code_of(interrupt), "interrupted", task) from None
    except RerankError as error:
        raise _end(UNAVAILABLE if error.retryable else exit_code(error), in_words(error), task) from error
    except BrokenPipeError:
        _drop_stdout()
        raise _end(128 + signal.SIGPIPE, "whoever read the output is gone", task) from None
    except OSError as error:
        _drop_stdout()
        raise _end(UNAVAILABLE, f"the output cannot be written: {error}", task) from error
    finally:
        if shown is not None:
            shown.close()


def _drop_stdout() -> None:
    """What was not written has nowhere to go; else Python complains of it at its end."""
    with suppress(OSError, ValueError):  # none, or one of a test's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Told(KeyboardInterrupt):
    """A signal that asks a program to end, as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _end_in_order_when_told_to() -> None:
    """SIGTERM (a scheduler) and SIGHUP (a closed terminal) end a run as Ctrl-C does: safe, and told how to go on."""

    def end(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough; a second must not break the order
        raise _Told(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # `nohup` has SIGHUP ignored, and means it
            signal.signal(number, end)


def _code_of(interrupt: KeyboardInterrupt) -> int:
    return 128 + interrupt.number if isinstance(interrupt, _Told) else INTERRUPTED


def _show_findings(task: "Task", pairs_per_second: float | None, summary_json: Path | None) -> None:
    from rerankq.bulk.dry_run import dry_run
    from rerankq.bulk.report import finding_lines
    from rerankq.client import RerankClient

    with RerankClient() as client:
        findings = dry_run(task, client, pairs_per_second)
    _print(finding_lines(findings), to_stderr=str(summary_json) == STANDARD_STREAM)
    _write_json(asdict(findings), summary_json)
    if findings.failed:
        raise typer.Exit(JOB_FAILED)


def _show(summary: "Summary", summary_json: Path | None) -> None:
    from rerankq.bulk.output.streams import is_stdout
    from rerankq.bulk.report import summary_lines

    is_taken = is_stdout(summary.output) or is_stdout(str(summary_json))  # stdout holds one thing at a time
    _print(summary_lines(summary), to_stderr=is_taken)
    _write_json(asdict(summary), summary_json)


def _print(lines: list[tuple[str, str]], *, to_stderr: bool) -> None:
    (err if to_stderr else out).print(facts(lines), soft_wrap=True)


def _write_json(fields: dict[str, Any], path: Path | None) -> None:
    if path is None:
        return
    text = json.dumps(fields, ensure_ascii=False)
    if str(path) == STANDARD_STREAM:
        print(text)
    else:
        path.write_text(f"{text}\n", encoding="utf-8")


def _end(code: int, reason: str, task: "Task") -> typer.Exit:
    """Say why the run ended before its time, and how it is taken up again."""
    from rerankq.bulk.output.streams import is_stream

    print(reason, file=sys.stderr)
    if code == WRONG_INPUT or is_stream(task.output):
        return typer.Exit(code)
    if is_stream(task.input):
        print("What is done is safe, but a pipe is read once: --restart begins anew.", file=sys.stderr)
    else:
        again = [word for word in sys.argv[1:] if word not in ("--restart", "--overwrite")]
        print(f"What is done is safe. To go on: {shlex.join(['rerankq', *again])}", file=sys.stderr)
    return typer.Exit(code)
