"""`rerankq rerank`: ask and wait."""

import time
from typing import Any

from rerankq.cli import options
from rerankq.cli.connection import connected
from rerankq.cli.documents import read_documents
from rerankq.cli.screen import incomplete_line, out, print_whole, ranking_table, timings_line
from rerankq.contract.messages import Ranking


def rerank(
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
    timeout: options.Timeout = None,
    as_json: options.Json = False,
    local: options.Local = False,
    model: options.Model = None,
) -> None:
    """Order documents by how well they answer a query, and wait for the ranking.

    [bold]Example:[/] rerankq rerank "capital of China" "Shanghai is large." "Beijing is the capital." --local
    """
    texts = read_documents(documents or [], file)
    with connected(local=local, model=model) as client:
        fields = request_fields(  # here, for a deadline counts from when the service is there
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
            model=None if local else model,
        )
        ranking = client.rerank(query, texts, timeout=timeout, return_documents=True, **fields)
    show_ranking(ranking, texts, as_json=as_json)


def request_fields(*, deadline: float | None, partial: bool, **fields: Any) -> dict[str, Any]:
    """The options of a command as fields of a `RerankRequest`; what was not given is left out."""
    if deadline is not None:
        fields["deadline"] = time.time() + deadline
    fields["on_deadline"] = "partial" if partial else "fail"
    return {name: value for name, value in fields.items() if value is not None}


def show_ranking(ranking: Ranking, texts: list[str] | None, *, as_json: bool) -> None:
    """The ranking for people, or as JSON for programs."""
    if as_json:
        print(ranking.model_dump_json(exclude_none=texts is None))
        return
    if ranking.results:
        print_whole(ranking_table(ranking, texts))
    else:
        out.print(f"none of {ranking.scored} reaches the threshold")
    if any(result.truncated for result in ranking.results):
        out.print("✂ only the beginning was read", style="yellow")
    note = incomplete_line(ranking)
    if note is not None:
        print_whole(note)
    print_whole(timings_line(ranking))
