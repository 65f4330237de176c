"""Batches of a few thousand tokens in one launch on a CUDA device: a pass recorded once, as a CUDA graph, and replayed.

A pass is some 300 launches, which take a host longer than a large card takes for such a batch. A recorded pass is of so
many tokens and rows; a batch that has fewer is filled up with tokens and rows whose scores nobody reads. Knows no
architecture: it records whatever a model does with a batch.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rerankq_worker.engine.batch import Batch
from rerankq_worker.engine.crossing import leave_behind, to_device
from rerankq_worker.engine.errors import first_line, is_device_lost, is_out_of_memory
from rerankq_worker.scoring import TokenIds

log = logging.getLogger(__name__)

TOKENS = (*range(64, 1024, 64), *range(1024, 8193, 128))
"""Of a recorded pass: a few per cent are computed in vain. Beyond the last a card is busier than its host."""
ROWS = (32, 160)
"""Never as many as tokens: attention tells by the number of queries who asks."""
LONGEST_TOKENS = (128, 512, 1024, 8192)
"""What a kernel is told of the longest row: it starts programs for so many tokens of each, most of them in vain."""
CAPTURE = "captur"
"""In what CUDA says of a step that cannot be recorded; the device is not lost by it."""
REASON_CHARS = 60  # of a line that goes on about the card's memory

Step = Callable[[], Tensor]
Record = Callable[[Step], Step]
"""Gives what does a step again; its answer lies where the last one did."""


class Packed(Protocol):
    """A model that pads nothing."""

    def __call__(self, rows: Sequence[TokenIds]) -> Tensor: ...

    def score_batch(self, batch: Batch) -> Tensor: ...

    def exactly(self, device: torch.device, rows: Sequence[TokenIds]) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Room:
    """What a recorded pass has place for."""

    tokens: int
    rows: int
    longest_tokens: int

    @classmethod
    def around(cls, lengths: Sequence[int]) -> "Room | None":
        """The least for rows of these lengths; None where they need more than is recorded."""
        needs = ((sum(lengths), TOKENS), (len(lengths), ROWS), (max(lengths), LONGEST_TOKENS))
        found = [next((step for step in steps if step >= need), 0) for need, steps in needs]
        return cls(*found) if all(found) else None


MOST = Room(TOKENS[-1], ROWS[0], LONGEST_TOKENS[1])


class GraphedModel:
    """A packed model on CUDA; its scores are the model's own."""

    pads = False

    def __init__(self, model: Packed, device: torch.device, record: Record | None = None) -> None:
        """
        Args:
            record: how a pass is recorded; left out, as a CUDA graph.
        """
        self._model = model
        self._device = device
        self._record = record or Recorder(device)
        self._passes: dict[Room, _Pass] = {}
        self._has_room: bool | None = None

    @torch.inference_mode()
    def __call__(self, rows: Sequence[TokenIds]) -> Tensor:
        """Logits, fp32, [n]; on CUDA they may not have been computed yet when this returns."""
        if self._has_room is None:
            self._reserve()
        room = Room.around([len(row) for row in rows]) if self._has_room else None
        return self._model(rows) if room is None else self._pass(room)(rows)

    def exactly(self, device: torch.device, rows: Sequence[TokenIds]) -> Tensor:
        """The same in fp32 arithmetic, as the model does it."""
        return self._model.exactly(device, rows)

    def _reserve(self) -> None:
        """The largest first: all others find place in its memory, and what is free is known once it has it.

        Where it does not fit none is recorded: batches need the memory more.
        """
        self._has_room = False
        try:
            largest = self._pass(MOST)
            for _ in range(2):
                largest([np.zeros(1, dtype=np.int32)])
            self._has_room = largest.is_recorded
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        if not self._has_room:
            self._passes.clear()
            self._record = _as_it_is  # what had been taken is given back

    def _pass(self, room: Room) -> "_Pass":
        if room not in self._passes:
            self._passes[room] = _Pass(self._model, room, self._device, self._record)
        return self._passes[room]


class _Pass:
    """Recorded when it is asked for again: some are once only, and then nothing is left to be set up."""

    def __init__(self, model: Packed, room: Room, device: torch.device, record: Record) -> None:
        self.is_recorded = False
        self._room = room
        self._numbers = to_device(_numbers([], room), device)
        batch = _batch(self._numbers, room)
        self._step: Step = lambda: model.score_batch(batch)
        self._record = record  # behind the step: graphs end before their memory does
        self._times_asked = 0

    def __call__(self, rows: Sequence[TokenIds]) -> Tensor:
        self._numbers.copy_(to_device(_numbers(rows, self._room), self._numbers.device))
        self._times_asked += 1
        if self._times_asked == 2:
            self._try_to_record()
        return self._step()[: len(rows)].clone()  # the next one's will lie there

    def _try_to_record(self) -> None:
        try:
            self._step = self._record(self._step)
            self.is_recorded = True
        except Exception as error:  # the boundary: whatever torch says of it, a pass goes without
            if is_device_lost(error) and CAPTURE not in str(error):
                raise
            why = first_line(error)[:REASON_CHARS]
            log.warning("engine: %d tokens are not computed in one launch (%s)", self._room.tokens, why)


def _as_it_is(step: Step) -> Step:
    return step


def _batch(numbers: Tensor, room: Room) -> Batch:
    """What stands in the numbers, whatever that will be."""
    ids, positions, segments, offsets, firsts = numbers.tensor_split(_ends(room))
    full, rest = divmod(room.tokens, room.longest_tokens)
    lengths = [room.longest_tokens] * full + [rest]
    return Batch(ids, positions, segments, offsets, firsts, lengths, stretches=[])


def _ends(room: Room) -> list[int]:
    tokens = room.tokens
    return [tokens, 2 * tokens, 3 * tokens, 3 * tokens + room.rows + 1]


def _numbers(rows: Sequence[TokenIds], room: Room) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Rows as `lay_out` lays them, then tokens of no row and rows of no token."""
    numbers = np.zeros(_ends(room)[-1] + room.rows, dtype=np.int32)
    ids, positions, segments, offsets, firsts = np.split(numbers, _ends(room))
    starts = np.cumsum([0, *map(len, rows)])
    used, count = starts[-1], len(rows)
    laid = np.concatenate([*rows, np.zeros(0, dtype=np.int32)])
    ids[:used] = np.maximum(laid, ~laid)
    positions[:used] = np.arange(used) - np.repeat(starts[:-1], np.diff(starts))
    segments[:used] = laid < 0
    offsets[: count + 1], offsets[count + 1 :] = starts, used
    firsts[:count] = starts[:-1]
    return numbers


class Recorder:
    """Records CUDA graphs, which share their memory: one can be replayed after the other, no two at a time."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        with torch.cuda.device(self._stream.device):  # whose memory it is
            self._memory = torch.cuda.MemPool()
        self._pool: Any = self._memory.id

    def __call__(self, step: Step) -> Step:
        """
        Raises:
            RuntimeError: this cannot be recorded, or there is no memory for it.
        """
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            with torch.cuda.use_mem_pool(self._memory, self._stream.device):
                step()  # takes the memory: torch does not survive it if that runs out while it records
            # `torch.cuda.graph` would give all cached memory back first
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                out = step()
                graph.capture_end()
            except BaseException:
                with suppress(RuntimeError):
                    graph.capture_end()
                leave_behind((graph, self._memory))
                raise
        current.wait_stream(self._stream)

        def again() -> Tensor:
            graph.replay()
            return out

        return again
