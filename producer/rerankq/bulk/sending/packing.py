"""Cut the rows into packs: runs of neighbours within a budget. Pure; the same rows give the same packs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rerankq.bulk.rows import Entry
from rerankq.contract.messages import RerankRequest
from rerankq.packing import PackSize, runs_within


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
        return sum(entry.size_bytes for entry in self.entries)

    def model_of(self, index: int) -> str | None:
        """The model that this entry's request names."""
        request = self.entries[index].request
        return None if request is None else request.model

    def requests(self, indices: Iterable[int]) -> list[RerankRequest]:
        """The requests of these entries."""
        found = [self.entries[index].request for index in indices]
        return [request for request in found if request is not None]


def cut(entries: Iterable[Entry], size: PackSize) -> Iterator[Pack]:
    """The entries as packs, in order."""
    return (Pack(tuple(run)) for run in runs_within(entries, size))
