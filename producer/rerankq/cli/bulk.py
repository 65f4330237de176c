"""`rerankq bulk`: a file in, a file out."""

import json
import os
import shlex
import signal
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rerankq.bulk import STANDARD_STREAM
from rerankq.bulk.progress import Kind, progress_of
from rerankq.cli import options
from rerankq.cli.connection import connected
from rerankq.cli.failures import JOB_FAILED, UNAVAILABLE, WRONG_INPUT, exit_code, in_words
from rerankq.cli.screen import err, facts, out
from rerankq.contract.errors import RerankError

if TYPE_CHECKING:
    from rerankq.bulk import Summary, Task

INTERRUPTED = 130

_input, _rows, _output, _run = (
    partial(typer.Option, rich_help_panel=panel) for panel in ("Input", "Rows", "Output", "Run")
)

Text = str | None
_IN = "JSONL, CSV, TSV, Parquet, Arrow, a TREC run; a directory, a quoted glob, s3://…; `-` is stdin."
_OUT = "Where the rankings go; `-` is stdout, a pipe or device will do."
FORMATS_TOLD = (
    "jsonl, openai-batch, rank-llm, csv, tsv, trec, parquet, arrow or (a row per document) long-parquet, long-arrow; "
    "told by IN."
)


def bulk(
    context: typer.Context,
    input_: Annotated[str, typer.Argument(metavar="IN", help=_IN)],
    output: Annotated[str, typer.Argument(metavar="OUT", help=_OUT)],
    format_: Annotated[Text, _input("--format", help=FORMATS_TOLD)] = None,
    query_field: Annotated[
        Text, _input(help="What the input calls the query; may be a path, `data.question`.")
    ] = None,
    documents_field: Annotated[
        Text,
        _input(
            help="What it calls the documents: `passages.passage_text`; `positive,negative` are strung together."
        ),
    ] = None,
    id_field: Annotated[Text, _input(help="What it calls the id of a job; in CSV `query_id`.")] = None,
    text_field: Annotated[
        Text, _input(help="What it calls the text of a document: `node.text`; `title,text` are joined.")
    ] = None,
    document_id_field: Annotated[
        Text, _input(help="What it calls the id of a document; in CSV `doc_id`.")
    ] = None,
    relevant_field: options.RelevantField = None,
    columns: Annotated[
        Text,
        _input(
            help="Names the columns of a CSV or TSV without a header, `qid,pid,query,passage`: its first line is data."
        ),
    ] = None,
    delimiter: Annotated[
        Text, _input(help="Between the columns of a table; `,` in CSV, a tab in TSV.")
    ] = None,
    quote: Annotated[
        bool | None, _input(help="Whether quotes enclose a table's fields: CSV's do, TSV's do not.")
    ] = None,
    encoding: Annotated[str, _input(help="Of IN: utf-8, utf-16, gbk, …")] = "utf-8",
    queries: Annotated[
        Text, _input(help="Texts of a TREC run's queries: JSON lines, or `qid<tab>text`.")
    ] = None,
    corpus: Annotated[
        Text,
        _input(
            help="Texts of its documents: BEIR's, Anserini's or MS MARCO's JSON lines, or `pid<tab>text`."
        ),
    ] = None,
    depth: Annotated[
        int | None, _input(min=1, help="Only so many candidates of each query of a run.")
    ] = None,
    missing: Annotated[
        Literal["fail", "skip"],
        _input(help="Documents of a run that the corpus lacks: fail their row, or go on without them."),
    ] = "fail",
    qrels: options.Qrels = None,
    relevant_from: options.RelevantFrom = 1,
    where: Annotated[
        list[str] | None,
        _rows(
            help="field=value or field!=value, as text or JSON; may be a path, and be repeated. Of a table: its lines."
        ),
    ] = None,
    skip: Annotated[int, _rows(min=0, help="Pass over so many rows first, of those that --where keeps.")] = 0,
    limit: Annotated[int | None, _rows(min=1, help="Take so many of the rest.")] = None,
    shard: Annotated[
        Text, _rows(help="3/8: of these the third and each eighth after it, for the third of eight hosts.")
    ] = None,
    output_format: Annotated[Text, _output(help="Told by OUT; of a pipe as the input.")] = None,
    output_columns: Annotated[
        Text, _output(help="Keys or columns of the output, in order: id,results,lang; -name leaves one out.")
    ] = None,
    ordered: Annotated[
        bool, _output("--ordered/--unordered", help="In the order of the input, or each as it comes.")
    ] = True,
    return_documents: Annotated[
        bool, _output("--return-documents", help="Put the documents into the results.")
    ] = False,
    top_n: options.TopN = None,
    raw_scores: options.RawScores = False,
    max_tokens_per_doc: options.MaxTokensPerDoc = None,
    truncation: options.Truncation = True,
    long_documents: options.LongDocumentsOption = None,
    max_windows: options.MaxWindows = None,
    threshold: options.Threshold = None,
    instruction: options.Instruction = None,
    pack_pairs: Annotated[
        int | None, _run(min=1, help="Pairs in one message.", show_default="1024 on GPUs, 256 on CPUs")
    ] = None,
    window_megabytes: Annotated[int, _run(min=1, help="Megabytes of input that may be under way.")] = 32,
    restart: Annotated[
        bool, _run("--restart", help="Forget an earlier run and overwrite its output.")
    ] = False,
    overwrite: Annotated[
        bool, _run("--overwrite", help="With --restart: also files that no run of `bulk` has begun.")
    ] = False,
    retry_errors: Annotated[bool, _run("--retry-errors", help="Ask again what failed.")] = False,
    dry_run: Annotated[
        bool, _run("--dry-run", help="Read, validate, count and estimate; send nothing.")
    ] = False,
    pairs_per_second: Annotated[
        float | None,
        _run(
            min=0.001,
            help="The pace that --dry-run reckons with; else what the workers have measured, else one H100's.",
        ),
    ] = None,
    progress: Annotated[Kind, _run(help="auto: a bar on a terminal, else a line every 10 s.")] = "auto",
    summary_json: Annotated[Path | None, _run(help="Write the summary there as JSON; `-` is stdout.")] = None,
    local: options.Local = False,
    model: options.Model = None,
) -> None:
    """Rerank a whole file. Run the same command again after any interruption: it goes on where it was.

    Rows that fail go to OUT.errors.jsonl with their reason. Exit codes: 0 all done, 1 some rows failed, 2 wrong
    usage or input, 3 unavailable, 130 interrupted.

    [bold]Example:[/] rerankq bulk jobs.jsonl.gz ranked.jsonl --top-n 10
    """
    from rerankq.bulk import BulkRun, Task
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
        "long_documents": long_documents,
        "max_windows_per_doc": max_windows,
        "score_threshold": threshold,
        "instruction": instruction,
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
    with _told_how_to_go_on(task):
        with connected(local=local, model=model) as client, closing(progress_of(progress)) as shown:
            run = BulkRun(task, client, progress=shown, window_bytes=window_megabytes * 1_000_000)
            summary = run.run(restart=restart, overwrite=overwrite, retry_errors=retry_errors)
        _show(summary, summary_json)
    if summary.failed:
        raise typer.Exit(JOB_FAILED)


def _split(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",")]


def _one_character(delimiter: str) -> str:
    named = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
    if len(named) != 1:
        raise typer.BadParameter(f"expected one character, got {delimiter!r}", param_hint="--delimiter")
    return named


@contextmanager
def _told_how_to_go_on(task: "Task") -> Generator[None]:
    """An end before its time is told with the command that goes on from there."""
    try:
        _end_in_order_when_told_to()
        yield
    except KeyboardInterrupt as interrupt:
        code = 128 + interrupt.number if isinstance(interrupt, _Told) else INTERRUPTED
        raise _end(code, "interrupted", task) from None
    except RerankError as error:
        raise _end(UNAVAILABLE if error.retryable else exit_code(error), in_words(error), task) from error
    except BrokenPipeError:
        _drop_stdout()
        raise _end(128 + signal.SIGPIPE, "whoever read the output is gone", task) from None
    except OSError as error:
        _drop_stdout()
        raise _end(UNAVAILABLE, f"the output cannot be written: {error}", task) from error


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


def _show_findings(task: "Task", pairs_per_second: float | None, summary_json: Path | None) -> None:
    from rerankq.bulk.dry_run import dry_run
    from rerankq.bulk.report import finding_facts
    from rerankq.client import RerankClient

    with RerankClient() as client:
        findings = dry_run(task, client, pairs_per_second)
    _print(finding_facts(findings), to_stderr=str(summary_json) == STANDARD_STREAM)
    _write_json(asdict(findings), summary_json)
    if findings.failed:
        raise typer.Exit(JOB_FAILED)


def _show(summary: "Summary", summary_json: Path | None) -> None:
    from rerankq.bulk.output.streams import is_stdout
    from rerankq.bulk.report import summary_facts

    is_taken = is_stdout(summary.output) or is_stdout(str(summary_json))  # stdout holds one thing at a time
    _print(summary_facts(summary), to_stderr=is_taken)
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
