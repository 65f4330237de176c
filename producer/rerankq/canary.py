"""One job whose answer is known beforehand, sent through a lane as anybody's is: does it come, how soon, is it right?

The best document comes first with any model for reranking, with the small one that compares words, and with the doubles
and fakes of tests: it is the shortest as well.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass

from rerankq.contract.errors import RerankError
from rerankq.contract.heartbeats import WorkerStatus
from rerankq.contract.messages import Lane, Ranking, RequestOptions
from rerankq.reranker import AsyncReranker, Reranker

QUERY = "What is the capital of France?"
DOCUMENTS = (
    "Lyon lies in the south-east of France, where two large rivers meet, and is known for its kitchens and its silk.",
    "The capital of France is Paris.",
    "Bakers rise early: most have sold their bread, rolls and cakes before the shops beside theirs have opened at ten.",
)
BEST = 1
"""The document that has to come first."""
PATIENCE = 2.0  # jobs differ, and so does the pace


@dataclass(frozen=True, slots=True)
class Canary:
    """What became of it."""

    lane: Lane
    total_seconds: float
    """From the moment it was asked until its answer or its failure was known."""
    ranking: Ranking | None = None
    error: RerankError | None = None

    @property
    def wait_seconds(self) -> float | None:
        """How much of that time it waited for a worker; None where no ranking came."""
        return None if self.ranking is None else self.ranking.timings.queued_seconds

    @property
    def wrong(self) -> str | None:
        """What is wrong, in one line; None where all is well."""
        if self.error is not None:
            return f"{type(self.error).__name__}: {self.error}"
        order = [result.index for result in self.ranking.results] if self.ranking else []
        if order[:1] == [BEST]:
            return None
        return (
            f"expected document {BEST} of the canary to come first, got the order {order}: scores are wrong"
        )


def send(reranker: Reranker, lane: Lane, timeout: float, *, model: str | None = None) -> Canary:
    """One canary through a lane, to the workers of this model or those that serve jobs which name none.

    Args:
        timeout: seconds until it is given up and called off.
    """
    started = time.monotonic()
    try:
        ranking = reranker.rerank(QUERY, DOCUMENTS, timeout=timeout, **_options(lane, model))
    except RerankError as error:
        return Canary(lane, time.monotonic() - started, error=error)
    return Canary(lane, time.monotonic() - started, ranking)


async def send_async(
    reranker: AsyncReranker, lane: Lane, timeout: float, *, model: str | None = None
) -> Canary:
    """The same from an event loop."""
    started = time.monotonic()
    try:
        ranking = await reranker.rerank(QUERY, DOCUMENTS, timeout=timeout, **_options(lane, model))
    except RerankError as error:
        return Canary(lane, time.monotonic() - started, error=error)
    return Canary(lane, time.monotonic() - started, ranking)


def names_for(serving: Iterable[WorkerStatus]) -> list[str | None]:
    """What canaries have to name to be answered by each model of these workers: nothing where one takes such jobs."""
    workers = list(serving)
    unnamed: list[str | None] = [None] if any(worker.serves_unnamed for worker in workers) else []
    return unnamed + sorted({w.model for w in workers if w.names and not w.serves_unnamed})


def patience_seconds(lane: Lane, usual: float, waiting: int, workers: Iterable[WorkerStatus]) -> float:
    """How long a canary may take without a reason to worry: as usual, and in the bulk lane behind all that waits.

    Args:
        usual: seconds that nobody who asks need wait in the interactive lane.
        waiting: jobs in the lane.
        workers: those heard of lately; how fast they go is known where they have run a job.
    """
    paces = [worker.seconds_per_job[lane] for worker in workers if lane in worker.seconds_per_job]
    if lane == "interactive" or not paces:
        return usual
    return usual + PATIENCE * (waiting + len(paces)) / sum(1 / pace for pace in paces)


def _options(lane: Lane, model: str | None) -> RequestOptions:
    return {"lane": lane, "model": model}
