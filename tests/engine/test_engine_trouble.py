"""Memory that runs out, numbers that break, a device that is lost: who pays, and how much."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rerankq_worker.engine import Engine, EngineBroken, EngineError, EngineInfo
from rerankq_worker.engine.attention import per_row
from rerankq_worker.engine.crossing import Coming
from rerankq_worker.engine.engine import exact_forward
from rerankq_worker.engine.linears import Linear, plain_linear
from rerankq_worker.engine.loading import load_reference
from rerankq_worker.engine.memory import GROWS_AFTER_BATCHES, PROBE_TOKENS, SHARE_OF_FREE
from rerankq_worker.engine.precision import Precision
from rerankq_worker.engine.unpadded_model import UnpaddedModel
from rerankq_worker.model.family import XLM_ROBERTA
from rerankq_worker.model.reading import Reading
from rerankq_worker.model.tokenizer import PairTokenizer
from rerankq_worker.scoring import TokenIds
from tests.engine.definition import plain_model, random_rows

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

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


class Card:
    """A card of so many free bytes, on which a token takes one, or none."""

    def __init__(self, free_bytes: int, bytes_per_token: int = 1) -> None:
        self.free = free_bytes
        self._bytes_per_token = bytes_per_token

    def growth_bytes(self, step: Callable[[], object]) -> int:
        return self._bytes_per_token * len(step()) * INFO.max_length_tokens  # type: ignore[arg-type]

    def free_bytes(self) -> int:
        return self.free


def engine_on(device: Device, tokenizer: PairTokenizer, exact: Device | None = None, **more: Any) -> Engine:
    """With an exact forward, if a test should need one."""
    load_exact = None if exact is None else lambda: lambda rows: exact(rows) + EXACT
    return Engine(device, INFO, tokenizer, 100, load_exact, **more)


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
    full = Device(out_of_memory_above(0))
    exact = exact_forward(lambda where, rows: (Device() if where == CPU else full)(rows) + EXACT, CUDA)
    engine = Engine(full, INFO, tokenizer, 100, lambda: exact)

    assert engine.score(rows(5)).tolist() == [5 + EXACT]


def test_a_single_pair_that_fits_nowhere_is_told_as_memory(tokenizer: PairTokenizer) -> None:
    full = Device(out_of_memory_above(0))

    with pytest.raises(MemoryError, match="a pair of 16 tokens does not fit on double"):
        engine_on(full, tokenizer, full).score(rows(5))


def test_memory_never_falls_below_one_row_of_full_length(tokenizer: PairTokenizer) -> None:
    engine = engine_on(Device(out_of_memory_above(0)), tokenizer, Device())

    engine.score(rows(5, 6, 7, 8))

    assert engine.info.max_batch_tokens == INFO.max_length_tokens


def test_a_logit_that_is_no_number_is_computed_again_alone_and_exactly(tokenizer: PairTokenizer) -> None:
    engine = engine_on(Device(broken_id=13), tokenizer, Device())

    assert engine.score(rows(5, 13, 7)).tolist() == [5, 13 + EXACT, 7]


def test_a_pair_that_is_no_number_even_exactly_leaves_its_neighbours_alone(tokenizer: PairTokenizer) -> None:
    engine = engine_on(Device(broken_id=13), tokenizer, Device(broken_id=13))

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


def test_a_torch_without_kernels_for_the_card_is_refused_and_not_started_again(
    tokenizer: PairTokenizer,
) -> None:
    other_card = RuntimeError("CUDA error: no kernel image is available for execution on the device\nadvice")

    with pytest.raises(EngineError, match=r"was not built for this device .*; install a build") as caught:
        engine_on(Device(lambda _: other_card), tokenizer).warm_up()

    assert not isinstance(caught.value, EngineBroken)
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
        (np.array([], dtype=np.int32), "row 1 to have 1 to 16 tokens, got 0"),
        (np.zeros(17, dtype=np.int32), "row 1 to have 1 to 16 tokens, got 17"),
        (np.array([0, 100], dtype=np.int32), "token ids of 0 to 99 in row 1, got 0 to 100"),
        (np.array([~100, 5], dtype=np.int32), "token ids of 0 to 99 in row 1, got -101 to 5"),
    ],
    ids=["empty", "too long", "unknown id", "unknown id of the second segment"],
)
def test_a_row_that_would_crash_the_device_never_reaches_it(
    tokenizer: PairTokenizer, row: TokenIds, complaint: str
) -> None:
    device = Device()

    with pytest.raises(ValueError, match=complaint):
        engine_on(device, tokenizer).score([*rows(5), row])

    assert device.batches == []


def test_equal_pairs_are_scored_once(tiny: Engine) -> None:
    device = Device()
    engine = Engine(device, tiny.info, tiny.tokenizer, vocabulary_size=10**6)
    pair, other = ("a panda", "a bear"), ("a panda", "bamboo and bamboo")

    logits = engine.score_pairs([pair, other, pair, pair])

    assert len(set(logits[[0, 2, 3]].tolist())) == 1
    read = [tiny.tokenizer.read(Reading(query=q, documents=[d]))[0] for q, d in (pair, other)]
    assert sum(device.batches) == sum(len(row.token_ids) for row in read)


def test_batches_are_begun_before_the_last_one_is_fetched(tokenizer: PairTokenizer) -> None:
    device = Device()
    engine = engine_on(device, tokenizer)

    first, second = engine.begin(rows(5)), engine.begin(rows(6))

    assert len(device.batches) == 2
    assert [second().tolist(), first().tolist()] == [[6], [5]]


def test_logits_are_asked_for_before_the_next_batch_is_begun(
    tokenizer: PairTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CUDA a copy that is asked for later waits for all that was begun before it."""
    device = Device()
    engine = engine_on(device, tokenizer)
    asked: list[int] = []

    def to_host(logits: torch.Tensor) -> Coming:
        asked.append(len(device.batches))
        return Coming(logits)

    monkeypatch.setattr("rerankq_worker.engine.engine.to_host", to_host)

    finishes = [engine.begin(rows(5)), engine.begin(rows(6))]

    assert asked == [1, 2]
    assert [finish().tolist() for finish in finishes] == [[5], [6]]


def test_a_batch_on_a_cpu_is_over_once_it_is_begun(tokenizer: PairTokenizer) -> None:
    assert engine_on(Device(), tokenizer).begin(rows(5)).wait(0)


class Arrival:
    """An event of a card that is there at the third look."""

    looks = 0

    def query(self) -> bool:
        self.looks += 1
        return self.looks > 2

    def synchronize(self) -> None:
        self.looks += 10


class Lost(Arrival):
    def query(self) -> bool:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_the_logits_of_a_card_are_waited_for_so_long_and_no_longer() -> None:
    coming = Coming(torch.tensor([5.0]), Arrival())  # type: ignore[arg-type] - no event of a card

    assert [coming.wait(0), coming.wait(60), coming().tolist()] == [False, True, [5.0]]


def test_nobody_waits_for_a_card_that_is_lost() -> None:
    assert Coming(torch.tensor([5.0]), Lost()).wait(60)  # type: ignore[arg-type] - no event of a card


def test_pinned_memory_of_a_card_that_is_lost_is_never_given_back() -> None:
    """Or torch would end the process there and then."""
    kept: list[bool] = []
    for event in (Lost(), Arrival()):
        logits = torch.tensor([5.0])
        alone = sys.getrefcount(logits)
        coming = Coming(logits, event)  # type: ignore[arg-type] - no event of a card
        del coming
        kept.append(sys.getrefcount(logits) > alone)

    assert kept == [True, False]


def test_a_batch_over_the_budget_is_cut_and_costs_none_of_it(tokenizer: PairTokenizer) -> None:
    device = Device()
    engine = engine_on(device, tokenizer)
    engine.score(rows(*range(48)))  # 768 tokens, planned for a larger budget than the 512 of now

    assert max(device.batches) <= INFO.max_batch_tokens
    assert engine.info.max_batch_tokens == INFO.max_batch_tokens


def test_a_padded_batch_costs_as_many_rows_of_its_longest(tokenizer: PairTokenizer) -> None:
    device = Device(lambda rows: no_memory() if len(rows) * max(map(len, rows)) > 256 else None)
    engine = engine_on(device, tokenizer, pads=True)
    mixed = [*rows(1), *(row[:2] for row in rows(*range(2, 33)))]  # 32 rows, 78 tokens, 512 of them padded

    assert engine.score(mixed).tolist() == list(range(1, 33))
    assert engine.info.max_batch_tokens == 256


def test_a_budget_grows_again_after_a_neighbours_spike(tokenizer: PairTokenizer) -> None:
    room = [40]
    device = Device(lambda rows: no_memory() if sum(map(len, rows)) > room[0] else None)
    engine = engine_on(device, tokenizer)
    engine.score(rows(*range(32)))
    cut = engine.info.max_batch_tokens
    room[0] = 10**6

    for _ in range(6 * GROWS_AFTER_BATCHES):
        engine.score(rows(5))

    assert (cut <= 40, engine.info.max_batch_tokens) == (True, INFO.max_batch_tokens)


def test_a_budget_does_not_grow_beyond_what_is_free(tokenizer: PairTokenizer) -> None:
    card = Card(free_bytes=50)
    engine = engine_on(Device(out_of_memory_above(60)), tokenizer, memory=card)
    engine.warm_up()
    small = engine.info.max_batch_tokens
    for _ in range(2 * GROWS_AFTER_BATCHES):
        engine.score(rows(5))
    assert engine.info.max_batch_tokens == small

    card.free = 10**6
    for _ in range(GROWS_AFTER_BATCHES):
        engine.score(rows(5))

    assert engine.info.max_batch_tokens == 2 * small


def test_warm_up_finds_what_fits_into_free_memory(tokenizer: PairTokenizer) -> None:
    engine = engine_on(Device(), tokenizer, memory=Card(free_bytes=300))

    engine.warm_up()

    assert engine.info.max_batch_tokens == int(300 * SHARE_OF_FREE)


def test_a_probe_that_does_not_fit_is_halved(tokenizer: PairTokenizer) -> None:
    engine = engine_on(Device(out_of_memory_above(200)), tokenizer, memory=Card(free_bytes=150))

    engine.warm_up()

    assert engine.info.max_batch_tokens == int(150 * SHARE_OF_FREE)


def test_memory_is_measured_on_what_takes_it_each_time(tokenizer: PairTokenizer) -> None:
    """A recorded pass, of as many tokens as the probe, would seem to take none."""
    scoring, measured = Device(), Device()

    engine_on(scoring, tokenizer, memory=Card(free_bytes=300), measured=measured).warm_up()

    assert measured.batches == [PROBE_TOKENS]
    assert max(scoring.batches) < PROBE_TOKENS


def test_a_card_too_full_for_any_probe_serves_one_pair_at_a_time(tokenizer: PairTokenizer) -> None:
    full = Device(out_of_memory_above(0))
    engine = engine_on(full, tokenizer, Device(), memory=Card(free_bytes=0))

    engine.warm_up()

    assert engine.info.max_batch_tokens == INFO.max_length_tokens
    assert engine.score(rows(5, 6)).tolist() == [5 + EXACT, 6 + EXACT]


def test_a_probe_that_takes_nothing_visible_leaves_the_most(tokenizer: PairTokenizer) -> None:
    engine = engine_on(Device(), tokenizer, memory=Card(free_bytes=100, bytes_per_token=0))

    engine.warm_up()

    assert engine.info.max_batch_tokens == INFO.max_batch_pairs * INFO.max_length_tokens


@pytest.mark.parametrize("rows_before", [64, 512], ids=["at the first pass", "in the probe"])
def test_a_device_lost_in_warm_up_is_told_as_such(tokenizer: PairTokenizer, rows_before: int) -> None:
    lost = RuntimeError("CUDA error: unspecified launch failure")
    device = Device(lambda rows: lost if len(rows) >= rows_before else None)

    with pytest.raises(EngineBroken, match="unspecified launch failure"):
        engine_on(device, tokenizer, memory=Card(free_bytes=10**6)).warm_up()


def test_a_device_lost_while_it_is_asked_for_memory_is_told_as_such(tokenizer: PairTokenizer) -> None:
    class Lost(Card):
        def free_bytes(self) -> int:
            raise RuntimeError("CUDA error: GPU has fallen off the bus")

    with pytest.raises(EngineBroken, match="fallen off the bus"):
        engine_on(Device(), tokenizer, memory=Lost(free_bytes=0)).warm_up()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "does not fit into what is free of"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "device is lost"),
    ],
    ids=["no room for the weights", "lost"],
)
def test_a_device_that_fails_while_the_model_is_loaded_is_worth_another_start(
    tiny_dir: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("rerankq_worker.engine.loading.load_forward", fails)

    with pytest.raises(EngineBroken, match=told):
        Engine.load(tiny_dir, device="cpu")


def test_a_card_in_half_precision_has_the_exact_arithmetic_without_other_weights(tiny_dir: Path) -> None:
    """What it does with a row that fp16 cannot carry: plain linears whose input decides the arithmetic."""
    half = Precision("fp16", torch.float16, torch.float16, torch.float16)
    rounded, given = load_reference(tiny_dir), load_reference(tiny_dir)
    for source in (rounded, given):
        source.get_parameter("roberta.embeddings.token_type_embeddings.weight").data.zero_()
    for name, parameter in rounded.named_parameters():
        if not name.startswith("classifier"):
            parameter.data = parameter.data.half().float()
    model = UnpaddedModel(given, XLM_ROBERTA, CPU, half, plain_in_half, per_row)
    batch = random_rows([3, 40, 900])

    exact = [model.exactly(CPU, [row]).item() for row in batch]

    assert np.abs(np.array(exact) - plain_model(rounded)(batch)).max() <= 1e-4


def plain_in_half(weight: torch.Tensor, bias: torch.Tensor, gelu: bool) -> Linear:
    return plain_linear(weight.half(), bias.half(), gelu)


def no_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory")
