"""Attention within each row of a batch. Three ways to the same numbers; knows no weights.

Every way takes `queries` [Q, H, D], `keys` and `values` [T, H, D], and gives [Q, H, D]. Either each token asks
(Q = T) or, in the last layer, only each row's first (Q = n). With a window each token, and then each must ask, sees
its row no further than so many tokens to either side.
"""

import importlib
from collections.abc import Callable
from inspect import signature
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from rerankq_worker.engine.batch import Batch

BLOCK_TOKENS = 64  # queries at a time where a window limits what they see; 32 to 128 are as fast
SM80 = (8, 0)  # Ampere: what flash attention's variable-length kernels need
HEAD_STEP, WIDEST_HEAD = 8, 256  # of a head's dimensions, likewise


class Attention(Protocol):
    def __call__(
        self, queries: Tensor, keys: Tensor, values: Tensor, batch: Batch, window: int | None = None
    ) -> Tensor: ...


def choose_attention(device: torch.device, body: torch.dtype, head: int) -> Attention:
    """Per row on the CPU; on CUDA a variable-length kernel where build, card and heads let it, else padded.

    Args:
        head: dimensions of one head of the model.
    """
    if device.type == "cpu":
        return per_row
    fits = head % HEAD_STEP == 0 and head <= WIDEST_HEAD
    if fits and body is torch.float16 and torch.cuda.get_device_capability(device) >= SM80:
        kernel = _torch_varlen() or _flash_varlen()
        if kernel is not None:
            return VariableLength(kernel)
    return padded


def pads(way: Attention, windows: bool) -> bool:
    """Whether it takes the memory of rows that are all as long as the longest, in a model with or without windows."""
    return way is padded or (windows and isinstance(way, VariableLength) and not way.knows_windows)


def per_row(queries: Tensor, keys: Tensor, values: Tensor, batch: Batch, window: int | None = None) -> Tensor:
    """One call per stretch of equal lengths: on a CPU the calls cost little and padding costs much."""
    out = torch.zeros_like(queries, memory_format=torch.contiguous_format)  # zeros for the fillers
    all_ask = len(queries) == len(keys)
    for stretch in batch.stretches:
        asking = stretch.tokens if all_ask else slice(stretch.first_row, stretch.first_row + stretch.rows)
        q = _heads_first(queries[asking], stretch.rows)
        k, v = (
            _heads_first(keys[stretch.tokens], stretch.rows),
            _heads_first(values[stretch.tokens], stretch.rows),
        )
        if window is None or stretch.length_tokens <= window + 1:
            attended = functional.scaled_dot_product_attention(q, k, v)
        else:
            attended = _in_blocks(q, k, v, window)
        out[asking] = _tokens_first(attended)
    return out


def _in_blocks(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Windowed attention, [rows, H, L, D], a block of queries at a time on what these see: long rows cost their length,
    not its square.
    """
    out, length = torch.empty_like(q), q.shape[2]
    places = torch.arange(length, device=q.device)
    for start in range(0, length, BLOCK_TOKENS):
        asking = slice(start, min(start + BLOCK_TOKENS, length))
        seen = slice(max(0, asking.start - window), min(asking.stop + window, length))
        near = _near(places[asking], places[seen], window)
        out[:, :, asking] = functional.scaled_dot_product_attention(
            q[:, :, asking], k[:, :, seen], v[:, :, seen], attn_mask=near
        )
    return out


def _near(asking: Tensor, seen: Tensor, window: int) -> Tensor:
    """[asking, seen]: which places are at most a window apart."""
    return (asking[:, None] - seen).abs() <= window


def padded(queries: Tensor, keys: Tensor, values: Tensor, batch: Batch, window: int | None = None) -> Tensor:
    """One call on rows padded to the longest, the padding masked: for GPUs without a variable-length kernel.

    For batches without fillers, as they are on CUDA.
    """
    rows, longest = len(batch.lengths), max(batch.lengths)
    mask = _once(batch, f"mask {window}", lambda: _mask(batch, longest, window))
    slots = _once(batch, "slots", lambda: _slots(batch, longest))
    all_ask = len(queries) == len(keys)
    q = _spread(queries, slots, rows, longest) if all_ask else _heads_first(queries, rows)
    k, v = _spread(keys, slots, rows, longest), _spread(values, slots, rows, longest)
    answer = _tokens_first(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    return answer[slots] if all_ask else answer


def _once(batch: Batch, name: str, make: Callable[[], Tensor]) -> Tensor:
    """What every layer needs alike: the first that asks makes it."""
    if name not in batch.derived:
        batch.derived[name] = make()
    return batch.derived[name]


def _mask(batch: Batch, longest: int, window: int | None) -> Tensor:
    """What may be seen: [n, 1, 1, longest], within a window [n, 1, longest, longest]."""
    columns = torch.arange(longest, device=batch.offsets.device)
    within = (columns < batch.offsets.diff()[:, None])[:, None, None]
    return within if window is None else within & _near(columns, columns, window)


def _slots(batch: Batch, longest: int) -> Tensor:
    """[T]: where each token lies among rows that are all as long as the longest."""
    every_row = torch.arange(len(batch.lengths), device=batch.offsets.device)
    # size given: no waiting
    row_of = torch.repeat_interleave(every_row, batch.offsets.diff(), output_size=sum(batch.lengths))
    return row_of * longest + batch.positions


class VariableLength:
    """One call on the tokens as they lie: flash attention told where the rows begin. No padding, no mask."""

    def __init__(self, kernel: Callable[..., Any]) -> None:
        self._kernel = kernel
        self.knows_windows = "window_size" in signature(kernel).parameters  # torch 2.10's does not

    def __call__(
        self, queries: Tensor, keys: Tensor, values: Tensor, batch: Batch, window: int | None = None
    ) -> Tensor:
        if window is not None and not self.knows_windows:
            return padded(queries, keys, values, batch, window)
        longest = max(batch.lengths)
        if len(queries) == len(keys):
            offsets, longest_asking = batch.offsets, longest
        else:
            offsets = torch.arange(len(queries) + 1, dtype=torch.int32, device=queries.device)
            longest_asking = 1
        limits = {} if window is None else {"window_size": (window, window)}
        answer: Tensor = self._kernel(
            queries, keys, values, offsets, batch.offsets, longest_asking, longest, **limits
        )
        return answer


def _heads_first(x: Tensor, rows: int) -> Tensor:
    """[rows * L, H, D] as [rows, H, L, D]."""
    return x.unflatten(0, (rows, -1)).transpose(1, 2)


def _tokens_first(x: Tensor) -> Tensor:
    """[rows, H, L, D] as [rows * L, H, D]."""
    return x.transpose(1, 2).flatten(0, 1)


def _spread(x: Tensor, slots: Tensor, rows: int, longest: int) -> Tensor:
    wide = x.new_zeros((rows * longest, *x.shape[1:]))
    wide[slots] = x
    return _heads_first(wide, rows)


def _torch_varlen() -> Callable[..., Any] | None:
    try:
        return importlib.import_module("torch.nn.attention.varlen").varlen_attn  # torch >= 2.10
    except (ImportError, AttributeError):
        return None


def _flash_varlen() -> Callable[..., Any] | None:
    try:
        return importlib.import_module("flash_attn").flash_attn_varlen_func
    except (ImportError, AttributeError):
        return None
