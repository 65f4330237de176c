"""Hold the rows of several jobs and cut the next batch from them.

Interactive before bulk, first come first served within a lane; what left is left goes to whoever comes next. A
suspect never shares a batch. Knows tickets, lanes and lengths: no text, no tensors, no clock, no socket.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rerankq.contract.messages import LANES, Lane


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of one ticket that travels in a batch."""

    ticket: int
    positions: list[int]
    """Which of the ticket's rows, counted from 0 in the order they were given."""


@dataclass(slots=True)
class _Waiting:
    """Rows of one ticket that no batch has taken yet, the shortest first: the longest are cheap to take."""

    ticket: int
    is_suspect: bool
    lengths: list[int]
    positions: list[int]

    def take(self, left: "_BatchLeft") -> list[int]:
        """The longest rows that fit, until nothing fits; they are no longer here afterwards."""
        taken: list[int] = []
        while self.lengths and (place := self._longest_that_fits(left)) is not None:
            left.fill(self.lengths.pop(place))
            taken.append(self.positions.pop(place))
        return taken

    def _longest_that_fits(self, left: "_BatchLeft") -> int | None:
        if left.pairs < 1:
            return None
        if left.is_untouched:
            return len(self.lengths) - 1  # a row over the whole budget travels alone rather than never
        place = bisect_left(self.lengths, left.tokens + 1) - 1
        return place if place >= 0 else None


@dataclass(slots=True)
class _BatchLeft:
    """Pairs and tokens that a batch may still take."""

    pairs: int
    tokens: int
    is_untouched: bool = True

    def fill(self, length: int) -> None:
        self.pairs -= 1
        self.tokens -= length
        self.is_untouched = False


@dataclass(slots=True)
class Scheduler:
    """Tickets in, batches out; every row leaves exactly once."""

    max_pairs: int
    max_tokens: int
    _lanes: dict[Lane, dict[int, _Waiting]] = field(default_factory=lambda: {lane: {} for lane in LANES})

    def add(
        self, ticket: int, lengths_tokens: Sequence[int], lane: Lane, *, is_suspect: bool = False
    ) -> None:
        """Queue the rows of a ticket behind those of its lane; `ticket` must be new."""
        order = sorted(range(len(lengths_tokens)), key=lambda position: (lengths_tokens[position], -position))
        lengths = [lengths_tokens[position] for position in order]
        self._lanes[lane][ticket] = _Waiting(ticket, is_suspect, lengths, order)

    def cancel(self, ticket: int) -> None:
        """Forget what still waits of a ticket; an unknown or finished one is no error."""
        for tickets in self._lanes.values():
            tickets.pop(ticket, None)

    def next_batch(self, *, no_suspect: bool = False) -> list[Slice]:
        """The next rows for the device, at most `max_pairs` and `max_tokens`; empty when nothing waits.

        Args:
            no_suspect: empty, too, when it is a suspect's turn.
        """
        lane: Lane = "interactive" if self._lanes["interactive"] else "bulk"
        if not self._lanes[lane]:
            return []
        lead = next(iter(self._lanes[lane].values()))
        left = _BatchLeft(self.max_pairs, self.max_tokens)
        if lead.is_suspect:
            return [] if no_suspect else self._cut([lead], left)
        batch = self._cut(self._innocent(lane), left)
        if lane == "interactive":
            batch += self._cut(self._innocent("bulk"), self._left_to_ride_along(left))
        return batch

    def waiting_rows(self, lane: Lane) -> int:
        """Rows of a lane that no batch has taken yet."""
        return sum(len(waiting.positions) for waiting in self._lanes[lane].values())

    def _innocent(self, lane: Lane) -> Iterable[_Waiting]:
        return [waiting for waiting in self._lanes[lane].values() if not waiting.is_suspect]

    def _cut(self, candidates: Iterable[_Waiting], left: _BatchLeft) -> list[Slice]:
        batch: list[Slice] = []
        for waiting in candidates:
            if left.pairs < 1 or (left.tokens < 1 and not left.is_untouched):
                break
            positions = waiting.take(left)
            if positions:
                batch.append(Slice(waiting.ticket, positions))
            if not waiting.positions:
                self.cancel(waiting.ticket)
        return batch

    def _left_to_ride_along(self, left: _BatchLeft) -> _BatchLeft:
        """Bulk rows may at most double a pass that answers an interactive job: on a GPU they ride for nothing,
        on a CPU every token costs the caller who waits."""
        used_tokens = self.max_tokens - left.tokens
        return _BatchLeft(left.pairs, min(left.tokens, used_tokens), is_untouched=False)
