"""Cut the rows into packs: runs of neighbours within a budget. Pure; the same rows give the same packs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rerankq.bulk.rows import Entry
from rerankq.contract.messages import RerankRequest

PAIRS_ON_GPU = 1_024  # about 0.7 s on an H100
PAIRS_ON_CPU = 256  # at 6 pairs a second still within the default bulk time limit of 60 s


@dataclass(frozen=True, slots=True)
class PackSize:
    """How much goes into one message. A row that is larger by itself goes alone."""

    max_pairs: int = PAIRS_ON_CPU
    max_bytes: int = 1_000_000
    max_rows: int = 256


@dataclass(frozen=True, slots=True)
class Pack:
    """Neighbouring rows, of which those that are requests travel in one message."""

    entries: tuple[Entry, ...]

    @property
    def start(self) -> int:
        """Position of the first row."""
        return self.entries[0].position

    @property
    def stop(self) -> int:
        """Position after the last row."""
        return self.entries[-1].position + 1

    @property
    def asked(self) -> list[int]:
        """Indices of the entries that are requests."""
        return [index for index, entry in enumerate(self.entries) if entry.request is not None]

    @property
    def size_bytes(self) -> int:
        """About what it holds in memory while it is under way."""
        return sum(entry.row.size_bytes for entry in self.entries)

    def requests(self, indices: Iterable[int]) -> list[RerankRequest]:
        """The requests of these entries."""
        found = [self.entries[index].request for index in indices]
        return [request for request in found if request is not None]


def cut(entries: Iterable[Entry], size: PackSize) -> Iterator[Pack]:
    """The entries as packs, in order."""
    gathered: list[Entry] = []
    pairs = size_bytes = 0
    for entry in entries:
        over_pairs = pairs + entry.pairs > size.max_pairs
        over_bytes = size_bytes + entry.row.size_bytes > size.max_bytes
        if gathered and (over_pairs or over_bytes or len(gathered) >= size.max_rows):
            yield Pack(tuple(gathered))
            gathered, pairs, size_bytes = [], 0, 0
        gathered.append(entry)
        pairs += entry.pairs
        size_bytes += entry.row.size_bytes
    if gathered:
        yield Pack(tuple(gathered))
