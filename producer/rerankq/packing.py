"""How much goes into one message, and where to cut what goes into several. Pure; the same items give the same cuts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from rerankq.contract.heartbeats import WorkerStatus

PAIRS_ON_GPU = 1_024  # about 0.7 s on an H100
PAIRS_ON_CPU = 256  # at 6 pairs a second still within the default bulk time limit of 60 s


class Weighed(Protocol):
    """What is to be packed, and how much it is."""

    @property
    def pairs(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...


Item = TypeVar("Item", bound=Weighed)


@dataclass(frozen=True, slots=True)
class PackSize:
    """How much goes into one message. What is larger by itself goes alone."""

    max_pairs: int = PAIRS_ON_CPU
    max_bytes: int = 1_000_000
    max_rows: int = 256


def pairs_for(workers: Sequence[WorkerStatus]) -> int:
    """Pairs that a pack may have: it must fit the time limit of the slowest device."""
    return PAIRS_ON_GPU if all("cpu" not in worker.device for worker in workers) else PAIRS_ON_CPU


def runs_within(items: Iterable[Item], size: PackSize) -> Iterator[list[Item]]:
    """The items in order, cut into runs of neighbours within a budget."""
    gathered: list[Item] = []
    pairs = size_bytes = 0
    for item in items:
        is_over = pairs + item.pairs > size.max_pairs or size_bytes + item.size_bytes > size.max_bytes
        if gathered and (is_over or len(gathered) >= size.max_rows):
            yield gathered
            gathered, pairs, size_bytes = [], 0, 0
        gathered.append(item)
        pairs += item.pairs
        size_bytes += item.size_bytes
    if gathered:
        yield gathered
