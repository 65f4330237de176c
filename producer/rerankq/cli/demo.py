"""`rerankq demo`: three jobs through a real queue, a real worker and a real model, nothing to set up."""

import json
import time
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from rerankq.cli import options
from rerankq.cli.connection import local_stack
from rerankq.cli.screen import milliseconds, numbered, out, print_whole, ranking_table, short, timings_line
from rerankq.contract.messages import Ranking

if TYPE_CHECKING:
    from rerankq.client import RerankClient

SHORT_LIST = 5  # documents; a list no longer than this is shown before and after
REAL_MODEL = "BAAI/bge-reranker-v2-m3"


class DemoJob(NamedTuple):
    """One job of the demo, as `demo_jobs.json` has it."""

    id: str
    title: str
    query: str
    documents: list[str]
    top_n: int | None
    note: str


class DemoAnswer(NamedTuple):
    """What came back, and how long the asking side waited for it."""

    job: DemoJob
    ranking: Ranking
    waited_seconds: float


def demo(
    model: options.StackModel = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for each answer.")] = 600.0,
    as_json: options.Json = False,
) -> None:
    """Show a reranker at work: starts Redis and a worker, pushes three jobs through, stops everything.

    [bold]Example:[/] rerankq demo --model BAAI/bge-reranker-v2-m3
    """
    began = time.monotonic()
    with local_stack(model or "small") as stack, stack.client() as client:
        ready_seconds = time.monotonic() - began
        answers = [_ask(client, job, timeout) for job in demo_jobs()]
    if as_json:
        print(json.dumps(_as_json(answers, ready_seconds), ensure_ascii=False))
        return
    _show(answers, ready_seconds, model)


def demo_jobs() -> list[DemoJob]:
    """The three jobs, in their order."""
    text = files("rerankq").joinpath("demo_jobs.json").read_text(encoding="utf-8")
    return [DemoJob(**fields) for fields in json.loads(text)]


def _ask(client: "RerankClient", job: DemoJob, timeout: float) -> DemoAnswer:
    began = time.perf_counter()
    ranking = client.rerank(job.query, job.documents, top_n=job.top_n, timeout=timeout)
    return DemoAnswer(job, ranking, time.perf_counter() - began)


def _show(answers: list[DemoAnswer], ready_seconds: float, model: str | None) -> None:
    worker = answers[0].ranking.worker
    served = answers[0].ranking.model
    out.print(
        f"A Redis and a worker were ready after {ready_seconds:.1f} s: {worker.name} on {worker.device}, "
        f"{worker.dtype}, model {served.name} ({short(served.revision)}).",
        soft_wrap=True,
    )
    for number, answer in enumerate(answers, start=1):
        _show_answer(number, answer)
    out.print()
    out.print("Redis and the worker are stopped.", style="dim")
    out.print(_next_step(model), soft_wrap=True)


def _show_answer(number: int, answer: DemoAnswer) -> None:
    job, ranking = answer.job, answer.ranking
    out.print()
    out.rule(f"{number}. {job.title}", align="left")
    out.print(f"query: {job.query}", style="bold", markup=False)
    if len(job.documents) <= SHORT_LIST:
        out.print("before, as they were retrieved:")
        print_whole(numbered(job.documents))
        out.print(f"after, {milliseconds(answer.waited_seconds)} later:")
    print_whole(ranking_table(ranking, job.documents))
    if len(ranking.results) < len(job.documents):
        out.print(f"the best {len(ranking.results)} of {len(job.documents)} documents", style="dim")
    out.print(f"asked and answered in {milliseconds(answer.waited_seconds)}", style="dim")
    print_whole(timings_line(ranking))
    out.print(job.note, style="italic", markup=False)


def _next_step(model: str | None) -> str:
    if model not in (None, "small"):
        return f"Next: `rerankq up --model {model}` keeps such a service running."
    return (
        "[bold]Next:[/] the model in the box is small and goes by the words that query and document share. "
        "The real one reads:\n"
        f"  rerankq model pull {REAL_MODEL}      (2.3 GB, once)\n"
        f"  rerankq demo --model {REAL_MODEL}    (the same three jobs)\n"
        f"  rerankq up --model {REAL_MODEL}      (a service that keeps running)"
    )


def _as_json(answers: list[DemoAnswer], ready_seconds: float) -> dict[str, Any]:
    first = answers[0].ranking
    return {
        "ready_seconds": round(ready_seconds, 3),
        "model": first.model.model_dump(),
        "worker": first.worker.model_dump(),
        "jobs": [
            {
                "id": answer.job.id,
                "title": answer.job.title,
                "waited_seconds": round(answer.waited_seconds, 6),
                "ranking": answer.ranking.with_documents(answer.job.documents).model_dump(),
            }
            for answer in answers
        ],
    }
