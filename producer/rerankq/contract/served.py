"""Which models are served and which are waited for: what workers say of themselves and what lies on lanes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerankq.contract.heartbeats import WorkerStatus
from rerankq.contract.messages import LANES, Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """One revision of a model with its workers, or, with none, what jobs call a model that nobody serves."""

    model: str
    revision: str = ""
    workers: tuple[WorkerStatus, ...] = ()
    waiting: Mapping[Lane, int]
    """Jobs that name it, with its revision or without; those without wait for its other revisions, too."""
    share: float | None = None
    """Of all pairs scored in the last minutes, 0 to 1; None where none were."""

    @property
    def names(self) -> tuple[str, ...]:
        """What jobs call it."""
        return _names(self.workers) if self.workers else (self.model,)

    @property
    def serves_unnamed(self) -> bool:
        """Whether a worker of it takes jobs that name no model."""
        return any(worker.serves_unnamed for worker in self.workers)

    def all_of(self, name: str) -> list[Any]:
        """What its workers say of themselves under a name, each once."""
        return sorted({getattr(worker, name) for worker in self.workers} - {"", None})


def served_models(
    workers: Iterable[WorkerStatus], waiting: Mapping[tuple[Lane, str | None], int]
) -> list[ServedModel]:
    """Those served, by name, then those that are waited for in vain."""
    groups: dict[tuple[str, str], list[WorkerStatus]] = {}
    for worker in workers:
        if worker.model:
            groups.setdefault((worker.model, worker.revision), []).append(worker)
    all_pairs = sum(worker.recent_pairs for group in groups.values() for worker in group)
    served = [
        ServedModel(
            model=model,
            revision=revision,
            workers=tuple(group),
            waiting=_waiting(waiting, _names(group)),
            share=sum(worker.recent_pairs for worker in group) / all_pairs if all_pairs else None,
        )
        for (model, revision), group in sorted(groups.items())
    ]
    return served + [
        ServedModel(model=name, waiting=_waiting(waiting, [name])) for name in _in_vain(served, waiting)
    ]


def percentages(shares: Sequence[float]) -> list[int]:
    """Whole ones that add up to 100: what rounding down leaves over goes to those that lost most by it."""
    exact = [share * 100 for share in shares]
    whole = [math.floor(each) for each in exact]
    by_loss = sorted(range(len(exact)), key=lambda place: whole[place] - exact[place])
    for place in by_loss[: round(sum(exact)) - sum(whole)]:
        whole[place] += 1
    return whole


def _names(workers: Sequence[WorkerStatus]) -> tuple[str, ...]:
    """What jobs call the model of these; nothing where all are of an older release."""
    return max((worker.names for worker in workers), key=len)


def _waiting(waiting: Mapping[tuple[Lane, str | None], int], names: Sequence[str]) -> dict[Lane, int]:
    return {lane: sum(waiting.get((lane, name), 0) for name in names) for lane in LANES}


def _in_vain(served: Iterable[ServedModel], waiting: Mapping[tuple[Lane, str | None], int]) -> list[str]:
    known = {name for each in served for name in each.names}
    return sorted({name for _, name in waiting if name is not None} - known)
