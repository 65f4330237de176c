"""How many tokens one batch may have on a device: found from free memory, fewer when it ran out, more again later.

Knows bytes and tokens; not what the tokens mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from rerankq_worker.scoring import TokenIds

PROBE_TOKENS = 8_192
SHARE_OF_FREE = 0.8  # the rest is for fragments, other streams and whoever else uses the card
GROWS_AFTER_BATCHES = 256  # without trouble: a neighbour's spike is over then, and a vain try costs little


class Memory(Protocol):
    """What a card says of its memory; tests have one of their own."""

    def growth_bytes(self, step: Callable[[], object]) -> int:
        """How much more than what is resident a step takes at its peak."""
        ...

    def free_bytes(self) -> int:
        """What a batch could still take."""
        ...


@dataclass(frozen=True, slots=True)
class CudaMemory:
    """Of one CUDA device, as torch and the driver count it."""

    device: torch.device

    def growth_bytes(self, step: Callable[[], object]) -> int:
        resident_bytes = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        step()
        return torch.cuda.max_memory_allocated(self.device) - resident_bytes

    def free_bytes(self) -> int:
        cached_bytes = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + cached_bytes


@dataclass(slots=True)
class Budget:
    """The tokens of one batch: `tokens` now, always between the least and the most."""

    tokens: int
    least_tokens: int
    """One row of full length."""
    most_tokens: int
    bytes_per_token: float = 0.0
    """Of a batch, as a probe measured it; 0: nothing was measured, or nothing that could be seen."""
    _batches_in_peace: int = 0

    def fit(self, free_bytes: int) -> None:
        """As many tokens as free memory holds.

        Linear: attention without padding keeps no length-by-length matrix.
        """
        fitting_tokens = self._fitting_tokens(free_bytes)
        self.tokens = max(self.least_tokens, min(fitting_tokens, self.most_tokens))

    def ran_out(self, batch_tokens: int) -> None:
        """A batch of so many tokens did not fit: half of it from now on."""
        self._batches_in_peace = 0
        self.tokens = max(self.least_tokens, min(self.tokens, batch_tokens // 2))

    def is_due_to_grow(self) -> bool:
        """Count one batch that fitted; True when the budget was cut long enough ago to look at memory again."""
        self._batches_in_peace += 1
        return self.tokens < self.most_tokens and self._batches_in_peace >= GROWS_AFTER_BATCHES

    def grow(self, free_bytes: int) -> None:
        """At most twice as many tokens as now, where free memory holds them."""
        self._batches_in_peace = 0
        wanted_tokens = min(2 * self.tokens, self._fitting_tokens(free_bytes), self.most_tokens)
        self.tokens = max(self.tokens, wanted_tokens)

    def _fitting_tokens(self, free_bytes: int) -> int:
        if self.bytes_per_token <= 0:
            return self.most_tokens
        return int(free_bytes * SHARE_OF_FREE / self.bytes_per_token)


def warm_up_rows(total_tokens: int, longest_tokens: int) -> list[TokenIds]:
    """Rows of `<s>` only, as long as allowed, about `total_tokens` together: for warming up and measuring."""
    count = max(1, total_tokens // longest_tokens)
    return [np.zeros(longest_tokens, dtype=np.int32) for _ in range(count)]
