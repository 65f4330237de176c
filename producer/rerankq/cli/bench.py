"""`rerankq bench`: what one device of this host does with a model, and how many of them a load needs.

The engine is asked by the worker's own program, as Celery workers ask it; the queue by a client of a local service.
"""

import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rerankq.cli import options
from rerankq.cli.connection import local_stack
from rerankq.cli.demo import demo_jobs
from rerankq.cli.screen import bytes_in_words, facts, milliseconds, out, print_table, progress, short
from rerankq.cli.sizing import MOST_BUSY, TAIL, fleet_for
from rerankq.contract.errors import InvalidRequest
from rerankq.contract.settings import read_dotenv
from rerankq.local import worker_program

if TYPE_CHECKING:
    from rerankq.client import RerankClient
    from rerankq.local.stack import LocalStack

LENGTHS = (64, 128, 256, 512)
DOCUMENTS = (10, 50, 100)
JOBS = 1_000_000
WORKERS_ON_CPU, WORKERS_BESIDE_GPU = 2, 3  # of a device, that take interactive jobs, as it is set up
BUSY_LOAD = 0.5
"""Of a core: with more before we begin, the figures are not this machine's best."""
INTERRUPTED = 130
PATIENCE_SECONDS = 600.0
PACK_SECONDS = 0.7
"""Of bulk work in one message, as a service of one GPU gets it."""
_SEED = 1
_ENGINE_SHARE, _LATENCY_SHARE, _BULK_SHARE = 0.5, 0.25, 0.25  # of the time
_SETTINGS = {
    "RERANKQ_SERVE_UNNAMED": "true",  # a service of several models may have it off
    "RERANKQ_INTERACTIVE_HARD_LIMIT_SECONDS": "900",  # a slow device is measured, too
    "RERANKQ_BULK_HARD_LIMIT_SECONDS": "900",
    "RERANKQ_METRICS_PORT": "",  # a worker of this host may have it
}

Row = dict[str, Any]


@dataclass(slots=True)
class Found:
    """What is known so far."""

    load: float
    cores: int
    engine: Row = field(default_factory=dict[str, Any])
    lengths: list[Row] = field(default_factory=list[Row])
    memory: Row = field(default_factory=dict[str, Any])
    latency: list[Row] = field(default_factory=list[Row])
    queue: Row = field(default_factory=dict[str, Any])
    complete: bool = False

    def pairs_per_second(self, length: int) -> float | None:
        """Of the engine, for pairs of this length."""
        return next((row["pairs_per_second"] for row in self.lengths if row["length"] == length), None)


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be served."""

    rate: float
    documents: int
    length: int
    within_seconds: float


def bench(
    model: options.StackModel = None,
    device: Annotated[
        str | None,
        typer.Option(help="`cpu`, or a GPU as `0` or `GPU-<uuid>`.", show_default="the first that is served"),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=5, max=86_400, help="How long to measure, about; a slow device takes longer.")
    ] = 60.0,
    length: Annotated[int, typer.Option(min=32, help="Tokens of a query and a document of yours.")] = 256,
    documents: Annotated[int, typer.Option(min=1, max=1000, help="Documents of a job of yours.")] = 50,
    rate: Annotated[float, typer.Option(min=0.001, max=10_000, help="Such jobs a second.")] = 10.0,
    within: Annotated[
        float, typer.Option(min=0.001, max=86_400, help="Seconds in which 99 of 100 shall be answered.")
    ] = 0.5,
    as_json: options.Json = False,
) -> None:
    """Measure one device of this host with a model: pairs a second, latency, memory, and how many a load needs.

    Starts a Redis and a worker of its own; a service that runs on the device meanwhile slows both down. Ctrl-C gives
    what is known.

    [bold]Example:[/] rerankq bench --model BAAI/bge-reranker-v2-m3 --rate 50 --within 0.3
    """
    load = Load(rate, documents, length, within)
    found = Found(os.getloadavg()[0], os.cpu_count() or 1)
    try:
        _measure(found, load, model, device, seconds)
        found.complete = True
    except KeyboardInterrupt:
        if not found.engine:
            raise
    sizing = _sizing(found, load)
    if as_json:
        print(json.dumps({**asdict(found), "sizing": sizing}, ensure_ascii=False))
    else:
        _show(found, load, sizing)
    if not found.complete:
        raise typer.Exit(INTERRUPTED)


# --- measuring -----------------------------------------------------------------------------------------------------


def _measure(found: Found, load: Load, model: str | None, device: str | None, seconds: float) -> None:
    with local_stack(model, {**_SETTINGS, **one_device(device)}) as stack, progress() as show:
        _ask_engine(found, load, stack, seconds * _ENGINE_SHARE, show)
        with stack.client() as client:
            texts = Texts(client, load.length)
            counts = sorted({*DOCUMENTS, load.documents})
            for count in counts:
                show(f"{count} documents of {load.length} tokens through the queue")
                found.latency.append(
                    _latency(client, texts, count, found, load, seconds * _LATENCY_SHARE / len(counts))
                )
            show(f"bulk jobs of {load.documents} documents")
            found.queue = _bulk(client, texts, found, load, seconds * _BULK_SHARE)


def one_device(device: str | None) -> dict[str, str]:
    """The settings that leave one."""
    asked = device or {**read_dotenv(), **os.environ}.get("RERANKQ_DEVICES") or "auto"
    if asked != "auto":
        return {"RERANKQ_DEVICES": asked.split(",")[0]}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    return {"RERANKQ_DEVICES": "auto", "CUDA_VISIBLE_DEVICES": visible.split(",")[0]}


def _ask_engine(
    found: Found, load: Load, stack: "LocalStack", seconds: float, show: Callable[[str], None]
) -> None:
    lengths = sorted({*LENGTHS, load.length})
    asked = (f"--seconds={seconds}", "--lengths", *map(str, lengths))
    show("the engine alone")
    for line in worker_program.lines_of("bench", *asked, environment=stack.worker_environment()):
        told = json.loads(line)
        if "engine" in told:
            found.engine = told["engine"]
            _refuse_length(load.length, found.engine["max_length_tokens"])
        elif "memory" in told:
            found.memory = told["memory"]
        else:
            found.lengths.append(told)
            show(f"the engine alone: {told['pairs_per_second'] or 0:,.1f} pairs/s of {told['length']} tokens")


def _refuse_length(length: int, longest: int) -> None:
    if length > longest:
        raise InvalidRequest(
            f"expected --length of at most {longest}, which is what the worker reads, got {length}; "
            "RERANKQ_MAX_LENGTH_TOKENS may allow more"
        )


class Texts:
    """Documents that with their query make pairs of so many tokens, no two alike."""

    def __init__(self, client: "RerankClient", length: int) -> None:
        self._words = [
            word for job in demo_jobs() for text in job.documents for word in text.split() if word.isascii()
        ]
        self._chance = random.Random(_SEED)  # noqa: S311 - not for secrets
        few, many = (self._tokens(client, words) for words in (8, 16))
        self._words_a_document = max(1, round(8 + (length - few) / max((many - few) / 8, 0.1)))

    def job(self, count: int) -> tuple[str, list[str]]:
        """A query and so many documents."""
        return "how do pandas digest", [self._document(self._words_a_document) for _ in range(count)]

    def jobs(self, count: int, until: float) -> Iterator[tuple[str, list[str]]]:
        """Such jobs for as long as it is not that late."""
        while time.monotonic() < until:
            yield self.job(count)

    def _document(self, words: int) -> str:
        return " ".join(self._chance.choices(self._words, k=words))

    def _tokens(self, client: "RerankClient", words: int) -> float:
        query, count = "how do pandas digest", 20
        told = client.rerank(query, [self._document(words) for _ in range(count)], timeout=PATIENCE_SECONDS)
        return told.usage.tokens / told.usage.pairs


def _latency(
    client: "RerankClient", texts: Texts, documents: int, found: Found, load: Load, seconds: float
) -> Row:
    """What a single caller waits; where one answer would take all the time there is, what the engine's rate says."""
    pairs_per_second = found.pairs_per_second(load.length) or 0.0
    row: Row = {"documents": documents, "length": load.length}
    if documents > pairs_per_second * 3 * seconds:
        return {**row, "asked": 0, "p50_seconds": documents / pairs_per_second if pairs_per_second else None}
    took: list[float] = []
    parts: list[tuple[float, float]] = []
    until = time.monotonic() + seconds
    while not took or time.monotonic() < until:
        query, given = texts.job(documents)
        began = time.perf_counter()
        timings = client.rerank(query, given, timeout=PATIENCE_SECONDS).timings
        took.append(time.perf_counter() - began)
        parts.append((timings.tokenize_seconds, timings.score_seconds))
    tokenize, score = (statistics.median(part) for part in zip(*parts, strict=True))
    p50 = statistics.median(took)
    return {
        **row,
        "asked": len(took),
        "p50_seconds": p50,
        "p99_seconds": sorted(took)[int(TAIL * len(took))],
        "worst_seconds": max(took),
        "tokenize_seconds": tokenize,
        "score_seconds": score,
        "queue_seconds": max(p50 - tokenize - score, 0.0),
    }


def _bulk(client: "RerankClient", texts: Texts, found: Found, load: Load, seconds: float) -> Row:
    """Pairs a second of bulk jobs, and their share of what the engine does when it is asked directly."""
    from rerankq.bulk import rerank_many
    from rerankq.packing import PackSize

    alone = found.pairs_per_second(load.length)
    if not alone or load.documents > alone * seconds / 4:
        return {"pairs_per_second": None, "share": None}
    jobs_a_pack = max(1, int(alone * PACK_SECONDS / load.documents))
    pack = PackSize(max_pairs=jobs_a_pack * load.documents)
    jobs = texts.jobs(load.documents, time.monotonic() + seconds)
    answered_at = [time.monotonic() for _ in rerank_many(jobs, client, ordered=False, pack_size=pack)]
    # A pack's answers come together: the first pack begins the time, and what came last ends it.
    counted = answered_at[jobs_a_pack - 1 :]
    took = counted[-1] - counted[0] if counted else 0.0
    pairs_per_second = (len(counted) - 1) * load.documents / took if took > 0 else None
    return {"pairs_per_second": pairs_per_second, "share": pairs_per_second and pairs_per_second / alone}


# --- what comes of it ----------------------------------------------------------------------------------------------


def _sizing(found: Found, load: Load) -> Row:
    """For the load that was asked about; nothing where too little is known."""
    pairs_per_second = found.queue.get("pairs_per_second") or found.pairs_per_second(load.length)
    if not pairs_per_second:
        return {}
    service = load.documents / pairs_per_second
    waited = next((row for row in found.latency if row["documents"] == load.documents), {})
    alone = max(waited.get("p50_seconds") or 0.0, service)
    spread = waited.get("p99_seconds", alone) - waited.get("p50_seconds", alone)
    workers = WORKERS_ON_CPU if found.engine["device"] == "cpu" else WORKERS_BESIDE_GPU
    fleet = fleet_for(load.rate, service, alone - service, load.within_seconds, workers, spread)
    return {
        **asdict(load),
        "pairs_per_second": pairs_per_second,
        "through_the_queue": bool(found.queue.get("pairs_per_second")),
        "hours_of_a_million_jobs": JOBS * service / 3600,
        "alone_seconds": alone,
        "alone_p99_seconds": alone + spread,
        "fleet": fleet and asdict(fleet),
    }


# --- showing -------------------------------------------------------------------------------------------------------


def _show(found: Found, load: Load, sizing: Row) -> None:
    engine = found.engine
    out.print(
        f"{engine['model']} ({short(engine['revision'])}) on {engine['device']}, {engine['dtype']}, "
        f"{engine['engine']} engine, at most {engine['max_batch_pairs']} pairs a batch",
        markup=False,
        soft_wrap=True,
    )
    if found.lengths:
        print_table(
            ("tokens a pair", "pairs/s", "tokens/s", "device busy"),
            [_length_row(row) for row in found.lengths],
        )
    if found.latency:
        headings = ("documents", "one caller waits", "worst", "tokenizing", "engine", "queue")
        print_table(headings, [_latency_row(row) for row in found.latency])
    told = [*_memory_facts(found.memory), *_queue_facts(found, load), *_sizing_facts(load, sizing)]
    told += _doubts(found)
    if told:
        out.print(facts(told), soft_wrap=True)


def _length_row(row: Row) -> Sequence[str]:
    rate, busy = row["pairs_per_second"], row["busy"]
    if rate is None:
        return (str(row["length"]), "not known", "", "")
    share = "" if busy is None else f"{busy:.0%}"
    return (str(row["length"]), _number(rate), _number(rate * row["length"]), share)


def _latency_row(row: Row) -> Sequence[str]:
    if not row["asked"]:
        known = row["p50_seconds"]
        return (
            str(row["documents"]),
            "" if known is None else f"about {milliseconds(known)}, reckoned",
            *[""] * 4,
        )
    names = ("p50", "worst", "tokenize", "score", "queue")
    return (str(row["documents"]), *(milliseconds(row[f"{name}_seconds"]) for name in names))


def _memory_facts(memory: Row) -> list[tuple[str, str]]:
    if not memory:
        return []
    of = {name: value for name, value in memory.items() if value}
    parts = [
        f"{bytes_in_words(of[name])} {words}"
        for name, words in (("engine_bytes", "the engine's process"), ("workers_bytes", "its Celery workers"))
        if name in of
    ]
    if "device_total_bytes" in of:
        used, total = bytes_in_words(of.get("device_used_bytes", 0)), bytes_in_words(of["device_total_bytes"])
        parts.append(f"{used} of {total} of the device's in use, by whomever")
    return [("memory", ", ".join(parts))]


def _queue_facts(found: Found, load: Load) -> list[tuple[str, str]]:
    rate, share = found.queue.get("pairs_per_second"), found.queue.get("share")
    if not rate or not share:
        return []
    words = f"{_number(rate)} pairs/s of {load.length} tokens in bulk jobs of {load.documents}"
    return [("through queue", f"{words}: {share:.0%} of the engine alone")]


def _sizing_facts(load: Load, sizing: Row) -> list[tuple[str, str]]:
    if not sizing:
        return []
    how = "" if sizing["through_the_queue"] else " (the engine alone)"
    rate = f"{_number(sizing['pairs_per_second'])} pairs/s at {load.length} tokens{how}"
    hours = f"1 M jobs of {load.documents} = {_number(sizing['hours_of_a_million_jobs'])} hours"
    return [("this device", f"{rate}; {hours}"), ("for your load", _fleet_in_words(load, sizing))]


def _fleet_in_words(load: Load, sizing: Row) -> str:
    jobs = f"{load.rate:g} queries/s of {load.documents} documents within {milliseconds(load.within_seconds)}"
    fleet = sizing["fleet"]
    if fleet is None:
        alone = milliseconds(sizing["alone_p99_seconds"])
        return (
            f"{jobs}: no number of such devices, for one such job in a hundred takes {alone} even alone; "
            "ask for fewer or shorter documents, or a faster device"
        )
    devices = "1 device" if fleet["devices"] == 1 else f"{fleet['devices']} devices"
    return (
        f"{jobs}: {devices}, {fleet['busy']:.0%} busy (p50 {milliseconds(fleet['p50_seconds'])}, "
        f"p99 {milliseconds(fleet['p99_seconds'])}; chance arrivals, simulated; never planned over {MOST_BUSY:.0%}); "
        "one more, so that one may fail"
    )


def _doubts(found: Found) -> list[tuple[str, str]]:
    doubts: list[tuple[str, str]] = []
    if not found.complete:
        doubts.append(("stopped", "before all was measured"))
    if found.load > BUSY_LOAD * found.cores:
        busy = f"this machine was busy (load {found.load:.1f} on {found.cores} cores) before the bench began"
        doubts.append(("doubt", f"{busy}; a quiet one does better"))
    return doubts


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
