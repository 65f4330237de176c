"""Group rows into batches that fit a pair and a token budget.

Knows lengths only: no text, no tensors, no queue.
"""

from collections.abc import Sequence


def plan(
    lengths_tokens: Sequence[int], max_pairs: int, max_tokens: int, *, pads: bool = False
) -> list[list[int]]:
    """Batches of row indices, longest rows first; rows of equal length keep their order.

    Sorted by tokens, not characters: a Chinese character weighs about four times a Latin one. A row longer
    than `max_tokens` travels alone.

    Args:
        pads: each row takes as much room as the longest of its batch.
    """
    if max_pairs < 1 or max_tokens < 1:
        raise ValueError(
            f"expected a budget of at least 1 pair and 1 token, got {max_pairs} and {max_tokens}"
        )
    batches: list[list[int]] = []
    room_tokens = 0
    for index in sorted(range(len(lengths_tokens)), key=lambda i: -lengths_tokens[i]):
        length = lengths_tokens[batches[-1][0] if pads and batches else index]
        if not batches or len(batches[-1]) == max_pairs or length > room_tokens:
            batches.append([])
            room_tokens, length = max_tokens, lengths_tokens[index]
        batches[-1].append(index)
        room_tokens -= length
    return batches
