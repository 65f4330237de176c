"""Who is asked in `bench_service`, for what, and what that came to: sides, jobs, counts a job, ratios.

Knows no part of the bench: what is asked of whom in which order is a `Work`.
"""

import gzip
import itertools
import json
import os
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from benchmarks import asked_service, bulk_files
from benchmarks.bench_http import ratio
from tests.conftest import REPOSITORY
from tests.service import TIED

SHARED = Path(os.environ.get("RERANKQ_SHARED") or REPOSITORY.parent / "shared") / "data" / "jobs"
JOB_FILE = "hard_en_squad_bm25_top30.jsonl.gz"
JOBS = 48
"""Of each size, asked for over and over: one job's answer is of no use to the next."""
MADE_UP_CHARACTERS = 750
LONG = ("redis_calls",)
PARTS_OF_A_JOB = ("queue", "tokenize", "score")

Row = dict[str, Any]
Told = dict[str, Any]
Job = tuple[str, list[str]]

# --- what is asked -------------------------------------------------------------------------------------------------


@cache
def paragraphs() -> tuple[list[str], list[str]]:
    """Queries, and paragraphs of which no two are alike."""
    if (SHARED / JOB_FILE).is_file():
        with gzip.open(SHARED / JOB_FILE, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
    else:
        print(f"real paragraphs: left out, {SHARED} is absent; these are made up")
        rows = list(bulk_files.rows(1, 1, MADE_UP_CHARACTERS))
    texts = {document["text"] for row in rows for document in row["documents"]}
    return [row["query"] for row in rows], sorted(texts)


def jobs_of(documents: int) -> list[Job]:
    """Jobs of so many documents, no two alike in one job."""
    queries, texts = paragraphs()
    pick = itertools.cycle(texts)
    return [(queries[n % len(queries)], list(itertools.islice(pick, documents))) for n in range(JOBS)]


# --- whom ----------------------------------------------------------------------------------------------------------


@dataclass
class Side:
    """`with Side(…)`: a checkout's service and a client of its own code, asked by orders (`asked_service.Asked`)."""

    name: str
    checkout: Path
    how: dict[str, Any]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [*TIED, str(os.getpid()), self._python(), "-P", asked_service.__file__, json.dumps(self.how)],
            cwd=self.checkout,
            env=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def ask(self, do: str, **what: Any) -> Told:
        """Give an order and wait until it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **what}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Told:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the service of {self.checkout} ended; what it said stands above")
        return json.loads(line)

    def _python(self) -> str:
        own = self.checkout / ".venv" / "bin" / "python"
        return str(own) if own.exists() else sys.executable

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RERANKQ_")}
        folders = [str(self.checkout / part) for part in (".", "producer", "worker")]
        return {**kept, "PYTHONPATH": os.pathsep.join(folders)}


def sides(against: Path | None, **how: Any) -> list[Side]:
    """This checkout's, and that of `--against`."""
    checkouts = {"this": REPOSITORY} | ({"against": against.resolve()} if against else {})
    return [Side(name, path, how) for name, path in checkouts.items()]


@contextmanager
def serving(found: Sequence[Side], documents: Iterable[int]) -> Generator[None]:
    """All of them at once, with jobs of so many documents under that number."""
    with ExitStack() as running:
        for side in found:
            running.enter_context(side)
            for count in sorted(set(documents)):
                side.ask("prepare", name=str(count), jobs=jobs_of(count))
        yield


Work = Callable[[Side], Told]


def asks(documents: int, callers: int, seconds: float, *, by: str = "threads", watched: bool = False) -> Work:
    """So many callers of jobs of so many documents; with what the devices do meanwhile, where they are watched."""
    return lambda side: side.ask(by, name=str(documents), callers=callers, seconds=seconds, watched=watched)


def race(found: Sequence[Side], rounds: int, works: dict[str, Work]) -> dict[str, dict[str, list[Told]]]:
    """Every work by every side, round by round, whoever was last first; the first round warms up."""
    told: dict[str, dict[str, list[Told]]] = {name: {side.name: [] for side in found} for name in works}
    for number in range(rounds + 1):
        for (name, work), side in itertools.product(works.items(), found[:: -1 if number % 2 else 1]):
            came = work(side)
            if number:
                told[name][side.name].append(came)
        print(f"round {number} of {rounds}", end="\r", file=sys.stderr, flush=True)
    return told


# --- what came of it -----------------------------------------------------------------------------------------------


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so large a share of them does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def risen(told: Told) -> Told:
    """By how much each counter rose between `before` and `after`; what was not there before counts from 0."""
    return _risen(told["before"], told["after"])


def _risen(before: Any, after: Any) -> Any:
    if isinstance(after, dict):
        return {name: _risen((before or {}).get(name), value) for name, value in after.items()}
    if isinstance(after, list):
        return [_risen(*pair) for pair in zip(before, after, strict=True)]
    return after - (before or 0)


def a_job(told: Sequence[Told], jobs: int) -> Row:
    """What a job cost of processor and Redis, over all these."""
    spent = [risen(each) for each in told]
    processor = _summed(each["processor"] for each in spent)
    calls = _summed(each["redis"]["calls"] for each in spent)
    bytes_of = _summed(each["redis"]["bytes"] for each in spent)
    return {
        "cpu_ms": round(1000 * sum(processor.values()) / jobs, 2),
        "cpu_ms_of": {name: round(1000 * value / jobs, 2) for name, value in processor.items()},
        "redis_commands": round(sum(calls.values()) / jobs, 1),
        "redis_calls": {name: round(n / jobs, 2) for name, n in calls.most_common() if n >= 0.05 * jobs},
        "redis_bytes": {way: round(value / jobs) for way, value in bytes_of.items()},
    }


def _summed(counts: Iterable[dict[str, float]]) -> "Counter[str]":
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


def answered(told: Sequence[Told]) -> Row:
    """What callers had of all these rounds together."""
    took = [ms for each in told for ms in each["took_ms"]]
    parts = zip(*(part for each in told for part in each["parts_ms"]), strict=True)
    medians = {
        f"{name}_ms": round(statistics.median(part), 2)
        for name, part in zip(PARTS_OF_A_JOB, parts, strict=True)
    }
    return {
        "per_second": round(statistics.median(map(per_second, told)), 1),
        "p50_ms": round(percentile(took, 0.5), 2),
        "p99_ms": round(percentile(took, 0.99), 2),
        **medians,
        **a_job(told, len(took)),
    }


def per_second(told: Told) -> float:
    """Answers."""
    return len(told["took_ms"]) / risen(told)["clock"]


def p50(told: Told) -> float:
    """Of one round, in milliseconds."""
    return percentile(told["took_ms"], 0.5)


def cpu_ms(told: Told) -> float:
    """Of one round, for each job."""
    return 1000 * sum(risen(told)["processor"].values()) / len(told["took_ms"])


def device(told: Told) -> Row:
    """Pairs a second, and the share of its time that it computes; of all devices together."""
    rose = risen(told)
    pairs, busy = (sum(each[key] for each in rose["device"]) for key in ("pairs", "busy_seconds"))
    return {"pairs_per_second": pairs / rose["clock"], "busy": busy / rose["clock"]}


def batch_ms(told: Sequence[Told]) -> float:
    """What a forward pass took."""
    rose = [each for came in told for each in risen(came)["device"]]
    return 1000 * sum(each["busy_seconds"] for each in rose) / max(sum(each["batches"] for each in rose), 1)


def ratios(found: dict[str, list[Told]], **of: Callable[[Told], float]) -> Row:
    """This one over the other, round by round; nothing where there is no other."""
    if "against" not in found:
        return {}
    mine, theirs = found["this"], found["against"]
    return {name: ratio([*map(value, mine)], [*map(value, theirs)]) for name, value in of.items()}


def line(row: Row) -> str:
    """A row for people; what is long stands in the JSON alone."""
    return "  ".join(f"{name} {_word(value)}" for name, value in row.items() if name not in LONG)


def _word(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    if "range" in value:
        return "{} [{}–{}]".format(value["ratio"], *value["range"])
    return f"({', '.join(f'{name} {_word(each)}' for name, each in value.items())})"
