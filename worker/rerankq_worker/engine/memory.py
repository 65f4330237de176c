"""How many tokens one forward pass may have on a CUDA device. Knows bytes; not what the tokens mean."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from rerankq_worker.tokenizer import TokenIds

PROBE_TOKENS = 8_192
SHARE_OF_FREE = 0.8  # the rest is for fragments, other streams and whoever else uses the card


def filler_rows(total_tokens: int, longest_tokens: int) -> list[TokenIds]:
    """Rows of `<s>` only, as long as allowed, about `total_tokens` together: for warming up and measuring."""
    count = max(1, total_tokens // longest_tokens)
    return [np.zeros(longest_tokens, dtype=np.int32) for _ in range(count)]


def largest_batch_tokens(
    forward: Callable[[Sequence[TokenIds]], torch.Tensor],
    device: torch.device,
    longest_tokens: int,
    max_pairs: int,
) -> int:
    """Tokens that fit into free memory, by measuring what a probe of rows at the full length takes.

    Linear: packed attention keeps no length-by-length matrix. Never more than `max_pairs` rows at full length,
    never less than one.
    """
    rows = filler_rows(PROBE_TOKENS, longest_tokens)
    resident_bytes = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    forward(rows).cpu()
    bytes_per_token = (torch.cuda.max_memory_allocated(device) - resident_bytes) / sum(map(len, rows))
    cached_bytes = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free_bytes = torch.cuda.mem_get_info(device)[0] + cached_bytes
    fitting_tokens = int(free_bytes * SHARE_OF_FREE / bytes_per_token)
    return max(longest_tokens, min(fitting_tokens, max_pairs * longest_tokens))
