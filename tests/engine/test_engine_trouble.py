"""Memory that runs out, numbers that break, a device that is lost: who pays, and how much."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from rerankq_worker.engine import Engine, EngineBroken, EngineInfo
from rerankq_worker.tokenizer import PairTokenizer, TokenIds

INFO = EngineInfo(
    model="double",
    revision="r1",
    device="double",
    dtype="fp16",
    max_length_tokens=16,
    max_batch_pairs=32,
    max_batch_tokens=512,
)
EXACT = 0.5
"""What the exact forward of these doubles adds to a row's first id."""


class Device:
    """A forward function that gives each row its first id as logit, and may be told to fail or to break one."""

    def __init__(
        self,
        fails: Callable[[Sequence[TokenIds]], Exception | None] = lambda _: None,
        broken_id: int | None = None,
    ) -> None:
        self.fails = fails
        self.broken_id = broken_id
        self.batches: list[int] = []

    def __call__(self, rows: Sequence[TokenIds]) -> torch.Tensor:
        self.batches.append(sum(len(row) for row in rows))
        error = self.fails(rows)
        if error is not None:
            raise error
        return torch.tensor([float("inf" if row[0] == self.broken_id else row[0]) for row in rows])


def engine_on(device: Device, tokenizer: PairTokenizer, exact: Device | None = None) -> Engine:
    def load_exact() -> Callable[[Sequence[TokenIds]], torch.Tensor]:
        assert exact is not None, "nothing here should need the exact forward"
        return lambda rows: exact(rows) + EXACT

    return Engine(device, INFO, tokenizer, vocabulary_size=100, load_exact=load_exact)


@pytest.fixture
def tokenizer(tiny: Engine) -> PairTokenizer:
    return tiny.tokenizer


def rows(*first_ids: int) -> list[TokenIds]:
    return [np.full(16, first, dtype=np.int32) for first in first_ids]


def out_of_memory_above(tokens: int) -> Callable[[Sequence[TokenIds]], Exception | None]:
    def fails(rows: Sequence[TokenIds]) -> Exception | None:
        return torch.OutOfMemoryError("CUDA out of memory") if sum(map(len, rows)) > tokens else None

    return fails


def test_a_batch_that_does_not_fit_is_scored_in_halves(tokenizer: PairTokenizer) -> None:
    engine = engine_on(Device(out_of_memory_above(40)), tokenizer)

    assert engine.score(rows(5, 6, 7, 8, 9)).tolist() == [5, 6, 7, 8, 9]


def test_the_size_that_fitted_is_remembered(tokenizer: PairTokenizer) -> None:
    device = Device(out_of_memory_above(40))
    engine = engine_on(device, tokenizer)
    engine.score(rows(*range(20, 28)))
    device.batches.clear()

    engine.score(rows(*range(20, 28)))

    assert max(device.batches) <= 40
    assert engine.info.max_batch_tokens <= 40


def test_a_single_pair_that_does_not_fit_is_scored_on_the_cpu(tokenizer: PairTokenizer) -> None:
    engine = engine_on(Device(out_of_memory_above(0)), tokenizer, exact=Device())

    assert engine.score(rows(5)).tolist() == [5 + EXACT]


def test_memory_never_falls_below_one_row_of_full_length(tokenizer: PairTokenizer) -> None:
    engine = engine_on(Device(out_of_memory_above(0)), tokenizer, exact=Device())

    engine.score(rows(5, 6, 7, 8))

    assert engine.info.max_batch_tokens == INFO.max_length_tokens


def test_a_logit_that_is_no_number_is_computed_again_alone_and_exactly(tokenizer: PairTokenizer) -> None:
    engine = engine_on(Device(broken_id=13), tokenizer, exact=Device())

    assert engine.score(rows(5, 13, 7)).tolist() == [5, 13 + EXACT, 7]


def test_a_pair_that_is_no_number_even_exactly_leaves_its_neighbours_alone(tokenizer: PairTokenizer) -> None:
    engine = engine_on(Device(broken_id=13), tokenizer, exact=Device(broken_id=13))

    logits = engine.score(rows(5, 13, 7))

    assert np.isnan(logits[1])
    assert logits[[0, 2]].tolist() == [5, 7]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
    ],
    ids=["assert", "illegal access", "cudnn", "cublas"],
)
def test_a_lost_device_is_told_from_everything_else(tokenizer: PairTokenizer, error: RuntimeError) -> None:
    engine = engine_on(Device(lambda _: error), tokenizer)

    with pytest.raises(EngineBroken, match="start a new one") as caught:
        engine.score(rows(5))

    assert caught.value.__cause__ is error
    assert "\n" not in str(caught.value)


def test_cublas_without_memory_is_out_of_memory_not_a_lost_device(tokenizer: PairTokenizer) -> None:
    no_memory = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    engine = engine_on(Device(lambda rows: no_memory if len(rows) > 1 else None), tokenizer)

    assert engine.score(rows(5, 6)).tolist() == [5, 6]


def test_an_error_of_ours_is_not_taken_for_the_devices(tokenizer: PairTokenizer) -> None:
    engine = engine_on(Device(lambda _: RuntimeError("mat1 and mat2 shapes cannot be multiplied")), tokenizer)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        engine.score(rows(5))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (np.array([], dtype=np.int32), "row 0 to have 1 to 16 tokens, got 0"),
        (np.zeros(17, dtype=np.int32), "row 0 to have 1 to 16 tokens, got 17"),
        (np.array([0, 100], dtype=np.int32), "token ids of 0 to 99 in row 0, got 0 to 100"),
        (np.array([-1, 5], dtype=np.int32), "token ids of 0 to 99 in row 0, got -1 to 5"),
    ],
    ids=["empty", "too long", "unknown id", "negative id"],
)
def test_a_row_that_would_crash_the_device_never_reaches_it(
    tokenizer: PairTokenizer, row: TokenIds, complaint: str
) -> None:
    device = Device()

    with pytest.raises(ValueError, match=complaint):
        engine_on(device, tokenizer).score([row])

    assert device.batches == []


def test_equal_pairs_are_scored_once(tiny: Engine) -> None:
    device = Device()
    engine = Engine(device, tiny.info, tiny.tokenizer, vocabulary_size=10**6, load_exact=Device)
    pair, other = ("a panda", "a bear"), ("a panda", "bamboo and bamboo")

    logits = engine.score_pairs([pair, other, pair, pair])

    assert len(set(logits[[0, 2, 3]].tolist())) == 1
    assert sum(device.batches) == sum(len(tiny.tokenizer.rows(q, [d])[0].token_ids) for q, d in (pair, other))


def test_batches_are_begun_before_the_last_one_is_fetched(tokenizer: PairTokenizer) -> None:
    device = Device()
    engine = engine_on(device, tokenizer)

    first, second = engine.begin(rows(5)), engine.begin(rows(6))

    assert len(device.batches) == 2
    assert [second().tolist(), first().tolist()] == [[6], [5]]
