"""Jobs through the whole service whose answers are known beforehand: a canary in each lane, and published scores."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rerankq import canary
from rerankq.client import RerankClient
from rerankq.contract.errors import QueueFull, RerankError
from rerankq.contract.findings import Finding, broken, ok, skipped, warn
from rerankq.contract.messages import LANES, Lane
from rerankq.doctor.of_workers import Around

CANARY_SECONDS = 8.0
GOLDEN_SECONDS = 8.0
GOLDEN_PAIRS = 3
_MORE = "on a host whose device is free, one more worker helps to empty the lane"

Left = Callable[[float], float]


def canaries(around: Around, left: Left) -> Iterator[Finding]:
    """One for each lane that somebody serves."""
    with RerankClient(settings=around.settings) as client:
        for lane in LANES:
            if around.is_paused(lane):
                yield skipped(f"canary.{lane}", "the lane is paused")
            elif serving := around.serving(lane):
                yield from (_canary(client, lane, model, around, left) for model in canary.names_for(serving))
            else:
                yield skipped(f"canary.{lane}", "no worker in service takes jobs of this lane")


def _canary(client: RerankClient, lane: Lane, model: str | None, around: Around, left: Left) -> Finding:
    check, sent = f"canary.{lane}", canary.send(client, lane, left(CANARY_SECONDS), model=model)
    whose = f"{model}: " if model else ""
    waiting = around.waiting_in(lane)
    if isinstance(sent.error, QueueFull):
        return warn(check, f"refused: {sent.error}; {_MORE}", "rerankq-worker")
    if sent.error is not None and waiting:
        text = f"no answer within {sent.total_seconds:.1f} s, behind {waiting:,} jobs; {_MORE}"
        return warn(check, text, "rerankq-worker")
    if sent.error is not None or sent.wrong is not None:
        return broken(check, f"{whose}{sent.wrong}; look on a host that serves it", _cure_of(sent))
    by = f"{model} " if model else ""
    told = f"{by}answered in {sent.total_seconds:.2f} s, of which it waited {sent.wait_seconds or 0:.2f} s"
    return ok(check, told)


def _cure_of(sent: canary.Canary) -> str:
    if sent.error is None:
        return "rerankq model verify"
    return "rerankq workers"


def golden(around: Around, told: Mapping[str, Any] | None, left: Left) -> Iterator[Finding]:
    """Whether the service gives this host's model the scores that others published for it.

    Args:
        told: the model's name and its pairs, as the worker's program tells them; None where there are none.
    """
    check = "model.golden"
    if not told or not told["pairs"]:
        why = "nobody has published scores of it" if told else "the worker's program names none here"
        yield skipped(check, why)
        return
    name = str(told["model"])
    if around.paused:
        yield skipped(check, "a lane is paused")
        return
    if not any(name in worker.names for worker in around.serving("interactive")):
        yield skipped(check, f"no worker serves {name}; `rerankq model verify` loads it and compares")
        return
    with RerankClient(settings=around.settings) as client:
        yield _compared(client, name, told, left)


def _compared(client: RerankClient, model: str, told: Mapping[str, Any], left: Left) -> Finding:
    pairs: Sequence[Mapping[str, Any]] = told["pairs"][:GOLDEN_PAIRS]
    wrong = broken if told["known"] else warn  # a fine-tune of that name has scores of its own
    widest = 0.0
    for pair in pairs:
        try:
            ranking = client.rerank(
                pair["query"], [pair["document"]], model=model, raw_scores=True, timeout=left(GOLDEN_SECONDS)
            )
        except RerankError as error:
            return skipped("model.golden", f"a published pair was not scored ({type(error).__name__})")
        got, allowed = ranking.results[0].relevance_score, pair["tolerance"].get(ranking.worker.dtype, 0.0)
        if got is None or not abs(got - pair["logit"]) <= allowed:
            text = f"{model} in {ranking.worker.dtype} gives {got}, where {pair['logit']:.4f} is published"
            return wrong("model.golden", text, "rerankq model verify")
        widest = max(widest, abs(got - pair["logit"]))
    return ok("model.golden", f"{len(pairs)} published scores of {model} were met within {widest:.4f}")
