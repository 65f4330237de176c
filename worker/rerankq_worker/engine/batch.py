"""Lay the rows of a batch end to end, with no padding. Knows token ids and where each row starts; no model."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from rerankq_worker.engine.crossing import to_device
from rerankq_worker.scoring import TokenIds

SHORT_BATCH_TOKENS = 1_024
SHORT_STEP = 32  # batches on a CPU have a multiple of this many tokens
LONG_STEP = 128


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring rows of one length, which attention can take in one call: rows `first_row` .. + `rows`."""

    first_row: int
    rows: int
    length_tokens: int
    first_token: int

    @property
    def tokens(self) -> slice:
        return slice(self.first_token, self.first_token + self.rows * self.length_tokens)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch: T tokens, those of n rows and perhaps a few fillers after them, and the offsets that tell them apart."""

    token_ids: torch.Tensor
    """int32, [T], on the device."""
    positions: torch.Tensor
    """int32, [T], on the device; each row counts from 0."""
    segments: torch.Tensor | None
    """int32, [T], on the device: 1 for a token of the second segment; None where all are of the first."""
    offsets: torch.Tensor
    """int32, [n + 1], on the device: row i is tokens offsets[i] .. offsets[i + 1]."""
    firsts: torch.Tensor
    """int32, [n], on the device: where each row's first token is, which its score is read from."""
    lengths: list[int]
    """Tokens of each row, on the host."""
    stretches: list[Stretch]
    derived: dict[str, torch.Tensor] = field(default_factory=dict, compare=False)
    """What attention makes of the batch once, by name, for all layers."""


def lay_out(rows: Sequence[TokenIds], device: torch.device) -> Batch:
    """The rows as one batch on the device, in the order given; one copy to the device.

    On a CPU up to 31 tokens (127 in long batches) that belong to no row follow the last one: oneDNN keeps compiled
    code for every number of tokens it has seen, hundreds of megabytes of it where each batch has a number of its own.
    """
    lengths = [len(row) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    filler = np.zeros(_filler_tokens(int(offsets[-1])) if device.type == "cpu" else 0, dtype=np.int32)
    ids = np.concatenate([*rows, filler])
    parts = [ids, positions, filler, offsets]
    several = ids.min(initial=0) < 0
    if several:
        parts = [np.maximum(ids, ~ids), *parts[1:], ids < 0]
    tokens, ends = len(ids), 2 * len(ids) + len(offsets)
    on_device = to_device(np.concatenate(parts).astype(np.int32), device)
    return Batch(
        token_ids=on_device[:tokens],
        positions=on_device[tokens : 2 * tokens],
        segments=on_device[ends:] if several else None,
        offsets=on_device[2 * tokens : ends],
        firsts=on_device[2 * tokens : ends - 1],
        lengths=lengths,
        stretches=_stretches(lengths),
    )


def _filler_tokens(tokens: int) -> int:
    return -tokens % (SHORT_STEP if tokens <= SHORT_BATCH_TOKENS else LONG_STEP)


def _stretches(lengths: Sequence[int]) -> list[Stretch]:
    stretches: list[Stretch] = []
    token = 0
    for row, length in enumerate(lengths):
        if stretches and stretches[-1].length_tokens == length:
            last = stretches.pop()
            stretches.append(Stretch(last.first_row, last.rows + 1, length, last.first_token))
        else:
            stretches.append(Stretch(row, 1, length, token))
        token += length
    return stretches
