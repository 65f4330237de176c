"""The three ways of attention give the same numbers, on the CPU too."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rerankq_worker.engine.attention import VariableLength, padded, per_row
from rerankq_worker.engine.batch import Batch, lay_out

LENGTHS = [(3, 3, 3), (9, 4, 4, 1), (1,), (1, 1), (2, 7)]


def batch_of(lengths: tuple[int, ...]) -> Batch:
    """Without the fillers that a batch on a CPU ends with."""
    batch = lay_out([np.arange(4, 4 + n, dtype=np.int32) for n in lengths], torch.device("cpu"))
    tokens = sum(lengths)
    return replace(batch, token_ids=batch.token_ids[:tokens], positions=batch.positions[:tokens])


def projections(lengths: tuple[int, ...], queries: int) -> list[torch.Tensor]:
    torch.manual_seed(sum(lengths))
    return [torch.randn(n, 2, 8) for n in (queries, sum(lengths), sum(lengths))]


def by_definition(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, batch: Batch, window: int | None = None
) -> torch.Tensor:
    """Softmax(q k / sqrt d) v over the whole batch, everything outside the own row or the window forbidden."""
    rows = torch.repeat_interleave(torch.arange(len(batch.lengths)), torch.tensor(batch.lengths))
    asking = rows if len(q) == len(k) else torch.arange(len(q))
    logits = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
    logits = logits.masked_fill(asking[:, None] != rows[None, :], float("-inf"))
    if window is not None:
        places = torch.arange(len(k))
        logits = logits.masked_fill((places[:, None] - places).abs() > window, float("-inf"))
    return torch.einsum("hqk,khd->qhd", logits.softmax(-1), v)


def kernel_double(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_q: torch.Tensor,
    cu_k: torch.Tensor,
    max_q: int,
    max_k: int,
    window_size: tuple[int, int] = (-1, -1),
) -> torch.Tensor:
    """What flash attention's variable-length kernel promises, computed row by row."""
    to_left, to_right = window_size
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert max_q == int(cu_q.diff().max())
    assert max_k == int(cu_k.diff().max())
    parts = []
    for a, b, c, d in zip(cu_q, cu_q[1:], cu_k, cu_k[1:], strict=False):
        heads_first = (q[a:b].transpose(0, 1), k[c:d].transpose(0, 1), v[c:d].transpose(0, 1))
        ahead = torch.arange(d - c) - torch.arange(b - a)[:, None] if window_size != (-1, -1) else None
        mask = None if ahead is None else (ahead >= -to_left) & (ahead <= to_right)
        parts.append(
            torch.nn.functional.scaled_dot_product_attention(*heads_first, attn_mask=mask).transpose(0, 1)
        )
    return torch.cat(parts)


every_way = pytest.mark.parametrize(
    "attention",
    [per_row, padded, VariableLength(kernel_double)],
    ids=["per row", "padded", "variable length"],
)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("only_firsts", [False, True], ids=["all ask", "firsts ask"])
@every_way
def test_attention_stays_within_each_row(attention, only_firsts: bool, lengths: tuple[int, ...]) -> None:
    batch = batch_of(lengths)
    q, k, v = projections(lengths, queries=len(lengths) if only_firsts else sum(lengths))

    torch.testing.assert_close(attention(q, k, v, batch), by_definition(q, k, v, batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lengths", [*LENGTHS, (63, 64, 65), (129, 129), (200, 5)], ids=str)
@pytest.mark.parametrize("window", [0, 1, 4, 64])
@every_way
def test_a_token_sees_no_further_than_its_window(attention, window: int, lengths: tuple[int, ...]) -> None:
    batch = batch_of(lengths)
    q, k, v = projections(lengths, queries=sum(lengths))

    got = attention(q, k, v, batch, window)

    torch.testing.assert_close(got, by_definition(q, k, v, batch, window), atol=1e-5, rtol=1e-5)


def test_a_kernel_that_knows_no_window_is_not_asked_for_one() -> None:
    def kernel_of_before(*_: object) -> torch.Tensor:
        raise AssertionError("asked")

    batch, (q, k, v) = batch_of((3, 5)), projections((3, 5), queries=8)

    got = VariableLength(kernel_of_before)(q, k, v, batch, 1)

    torch.testing.assert_close(got, by_definition(q, k, v, batch, 1), atol=1e-5, rtol=1e-5)


def test_positions_start_anew_in_every_row() -> None:
    assert batch_of((3, 1, 2)).positions.tolist() == [0, 1, 2, 0, 0, 1]


def test_neighbours_of_one_length_share_a_run() -> None:
    stretches = batch_of((4, 4, 2, 4)).stretches

    assert [
        (stretch.first_row, stretch.rows, stretch.length_tokens, stretch.first_token) for stretch in stretches
    ] == [
        (0, 2, 4, 0),
        (2, 1, 2, 8),
        (3, 1, 4, 10),
    ]


def test_batches_on_a_cpu_have_few_different_sizes() -> None:
    """oneDNN keeps compiled code for every number of tokens: that is memory, and a wait whenever a number is new."""
    sizes = {
        len(lay_out([np.zeros(n, dtype=np.int32)], torch.device("cpu")).token_ids) for n in range(1, 8193, 7)
    }

    assert len(sizes) <= 88


@pytest.mark.parametrize("length", [1, 31, 32, 33, 1024, 1025])
def test_fillers_follow_the_last_row_and_belong_to_none(length: int) -> None:
    batch = lay_out([np.full(length, 5, dtype=np.int32)], torch.device("cpu"))

    assert batch.offsets.tolist() == [0, length]
    assert batch.token_ids.tolist() == [5] * length + [0] * (len(batch.token_ids) - length)
    assert len(batch.positions) == len(batch.token_ids)
