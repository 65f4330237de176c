"""`rerankq submit`, `status`, `result`, `cancel`: a job that outlives the command."""

import dataclasses
import json
import time
from typing import TYPE_CHECKING

from rerankq.cli import options
from rerankq.cli.connection import connected
from rerankq.cli.documents import read_documents
from rerankq.cli.rerank import request_fields, show_ranking
from rerankq.cli.screen import out

if TYPE_CHECKING:
    from rerankq.answers import JobStatus


def submit(
    query: options.Query,
    documents: options.Documents = None,
    file: options.File = None,
    top_n: options.TopN = None,
    raw_scores: options.RawScores = False,
    max_tokens_per_doc: options.MaxTokensPerDoc = None,
    truncation: options.Truncation = True,
    long_documents: options.LongDocumentsOption = None,
    max_windows: options.MaxWindows = None,
    threshold: options.Threshold = None,
    instruction: options.Instruction = None,
    deadline: options.Deadline = None,
    partial: options.Partial = False,
    lane: options.LaneOption = "interactive",
    model: options.Model = None,
    as_json: options.Json = False,
) -> None:
    """Put a job on the queue and print its id at once.

    [bold]Example:[/] job=$(rerankq submit "capital of China" --file candidates.txt)
    """
    texts = read_documents(documents or [], file)
    fields = request_fields(
        top_n=top_n,
        raw_scores=raw_scores,
        max_tokens_per_doc=max_tokens_per_doc,
        truncation=truncation,
        long_documents=long_documents,
        max_windows_per_doc=max_windows,
        score_threshold=threshold,
        instruction=instruction,
        deadline=deadline,
        partial=partial,
        lane=lane,
        model=model,
    )
    with connected() as client:
        job = client.submit(query, texts, **fields)
    print(json.dumps({"job_id": job.job_id}) if as_json else job.job_id)


def status(job_id: options.JobId, as_json: options.Json = False) -> None:
    """Say where a job stands: queued, running, done, failed, dead, cancelled, expired or unknown.

    [bold]Example:[/] rerankq status "$job"
    """
    with connected() as client:
        found = client.job(job_id).status()
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
        return
    out.print(_in_words(found), markup=False, soft_wrap=True)


def result(job_id: options.JobId, timeout: options.Timeout = None, as_json: options.Json = False) -> None:
    """Wait for a job's ranking and print it.

    The texts stayed with the process that asked, so a document is shown by its number.

    [bold]Example:[/] rerankq result "$job" --timeout 60
    """
    with connected() as client:
        job = client.job(job_id)
        job.status()  # a Redis that is away is said at once; one that goes away later is ridden out
        ranking = job.result(timeout)
    show_ranking(ranking, None, as_json=as_json)


def cancel(job_id: options.JobId, as_json: options.Json = False) -> None:
    """Call a job off, before it starts or between two batches of it.

    [bold]Example:[/] rerankq cancel "$job"
    """
    with connected() as client:
        job = client.job(job_id)
        job.cancel()
        found = job.status()
    print(json.dumps(dataclasses.asdict(found)) if as_json else f"{found.job_id}: {found.state}")


def _in_words(found: "JobStatus") -> str:
    from rerankq.contract.orders import resume_command

    parts = [f"{found.job_id}: {found.state}"]
    if found.total:
        parts.append(f"{found.scored}/{found.total} documents scored")
    if found.lane:
        parts.append(f"{found.lane} lane")
    if found.paused_since is not None:
        since = time.time() - found.paused_since
        parts.append(
            f"which is paused for {since:.0f} s now (`{resume_command(found.lane or 'LANE', found.paused_model)}`)"
        )
    if found.submitted_at:
        parts.append(f"submitted {time.time() - found.submitted_at:.0f} s ago")
    if found.attempts > 1:
        parts.append(f"attempt {found.attempts}")
    if found.worker:
        parts.append(f"on {found.worker}")
    if found.error:
        parts.append(found.error)
    return ", ".join(parts)
