"""Passes recorded once and replayed, as far as a CPU shows it: what is recorded is the step itself."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.gpu_check.candidates import flash_on_cpu
from rerankq_worker.engine.attention import VariableLength
from rerankq_worker.engine.batch import Batch
from rerankq_worker.engine.graphs import LONGEST_TOKENS, ROWS, TOKENS, GraphedModel, Room, Step
from rerankq_worker.engine.linears import choose_linear
from rerankq_worker.engine.loading import FORWARDS, in_few_launches, load_reference
from rerankq_worker.engine.packed_model import PackedModel
from rerankq_worker.engine.precision import EXACT
from rerankq_worker.model.files import family_of
from tests.engine.definition import random_rows
from tests.engine.no_card import CARD, no_card
from tests.model_dirs import TOKENIZERS, build_model_dir

CPU = torch.device("cpu")


class Recordings:
    """A recorder that notes what it was given."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def __call__(self, step: Step) -> Step:
        self.steps.append(step)
        lies = step().clone()
        return lambda: lies.copy_(step())


@pytest.fixture(scope="module", params=sorted(TOKENIZERS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PackedModel:
    directory = build_model_dir(tmp_path_factory.mktemp("models") / request.param, "tiny", request.param)
    return packed(directory)


@pytest.fixture(scope="module")
def tiny(tiny_dir: Path) -> PackedModel:
    return packed(tiny_dir)


def packed(directory: Path) -> PackedModel:
    """With attention as a card does it, told no lengths."""
    family, source = family_of(directory), load_reference(directory)
    linear = choose_linear(CPU, EXACT.weights, EXACT.body)
    return FORWARDS[family.forward](source, family, CPU, EXACT, linear, VariableLength(windowed))


def windowed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """Without the window, which rows as short as these do not fill."""
    del window_size
    return flash_on_cpu(q, k, v, cu_q, cu_k, max_q, max_k)


def test_each_batch_gets_its_own_scores(model: PackedModel) -> None:
    graphed = GraphedModel(model, CPU, recordings := Recordings())
    batches = [random_rows(lengths) for lengths in ([30, 30], [7, 40, 1], [64], [12] * 33)]
    batches[1][1] = np.concatenate([batches[1][1][:9], ~batches[1][1][9:]])  # of a second segment

    for _ in range(3):
        for rows in batches:
            torch.testing.assert_close(graphed(rows), model(rows), atol=1e-5, rtol=0)
    assert len(recordings.steps) == 1 + 2  # the largest, and two rooms


def test_a_pass_is_recorded_when_it_is_asked_for_again(tiny: PackedModel) -> None:
    graphed = GraphedModel(tiny, CPU, recordings := Recordings())
    asked: list[int] = []

    for lengths in ([9], [3, 3], [200], [63], [250]):
        graphed(random_rows(lengths))
        asked.append(len(recordings.steps) - 1)

    assert asked == [0, 1, 1, 1, 2]


def test_the_largest_is_recorded_before_anything_else(tiny: PackedModel) -> None:
    recordings: list[int] = []

    def record(step: Step) -> Step:
        recordings.append(len(step()))
        return step

    GraphedModel(tiny, CPU, record)(random_rows([9]))

    assert recordings == [ROWS[0]]


@pytest.mark.parametrize(
    "lengths", [[8193], [100, 8100], [1] * 161], ids=["too long", "too many tokens", "too many rows"]
)
def test_what_no_pass_has_room_for_is_computed_as_it_comes(lengths: list[int]) -> None:
    assert Room.around(lengths) is None


@pytest.mark.parametrize(
    ("lengths", "room"),
    [
        ([1], (64, 32, 128)),
        ([2] * 32, (64, 32, 128)),
        ([2] * 33, (128, 160, 128)),
        ([129, 900], (1152, 32, 1024)),
        ([8192], (8192, 32, 8192)),
    ],
    ids=["least", "full", "one row more", "long", "most"],
)
def test_a_room_is_the_least_that_holds_a_batch(lengths: list[int], room: tuple[int, int, int]) -> None:
    assert Room.around(lengths) == Room(*room)


def test_a_room_has_never_as_many_rows_as_tokens() -> None:
    """By which attention tells whether each token asks."""
    assert not set(ROWS) & set(TOKENS)
    assert max(TOKENS) == max(LONGEST_TOKENS)


def failing(error: Exception, after: int = 0) -> Callable[[Step], Step]:
    """A recorder that records so many steps, and then no more."""
    left = itertools.count(after, -1)

    def record(step: Step) -> Step:
        if next(left) > 0:
            return step
        raise error

    return record


NOT_TO_BE_RECORDED = RuntimeError("CUDA error: operation not permitted when stream is capturing")


@pytest.mark.parametrize("after", [0, 1], ids=["the largest", "another"])
@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), NOT_TO_BE_RECORDED, ValueError("strange")],
    ids=["no memory", "not to be recorded", "anything"],
)
def test_a_pass_that_cannot_be_recorded_is_computed_launch_by_launch(
    tiny: PackedModel, error: Exception, after: int, caplog: pytest.LogCaptureFixture
) -> None:
    graphed, rows = GraphedModel(tiny, CPU, failing(error, after)), random_rows([9, 5])

    scored = [graphed(rows) for _ in range(3)]

    for logits in scored:
        torch.testing.assert_close(logits, tiny(rows), atol=1e-5, rtol=0)
    tokens = 64 if after else 8192
    told = f"engine: {tokens} tokens are not computed in one launch ({str(error)[:60]})"
    assert caplog.messages == [told]


def test_where_the_largest_does_not_fit_none_is_recorded(tiny: PackedModel) -> None:
    """Batches need the memory more."""
    recordings = Recordings()

    def record(step: Step) -> Step:
        if not recordings.steps:
            recordings.steps.append(step)
            raise torch.OutOfMemoryError
        return recordings(step)

    graphed = GraphedModel(tiny, CPU, record)
    for _ in range(3):
        graphed(random_rows([9]))

    assert len(recordings.steps) == 1


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")],
    ids=["torch's own", "of a library"],
)
def test_where_the_largest_cannot_even_be_computed_none_is_recorded(
    tiny: PackedModel, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def score_batch(batch: Batch) -> Tensor:
        if len(batch.token_ids) == TOKENS[-1]:
            raise error
        return PackedModel.score_batch(tiny, batch)

    monkeypatch.setattr(tiny, "score_batch", score_batch)
    graphed, rows = GraphedModel(tiny, CPU, recordings := Recordings()), random_rows([9])

    for _ in range(3):
        torch.testing.assert_close(graphed(rows), tiny(rows), atol=1e-5, rtol=0)

    assert recordings.steps == []


def test_a_device_that_is_lost_while_a_pass_is_recorded_is_told(tiny: PackedModel) -> None:
    graphed = GraphedModel(tiny, CPU, failing(RuntimeError("CUDA error: an illegal memory access")))

    with pytest.raises(RuntimeError, match="illegal memory access"):
        graphed(random_rows([9]))


def test_on_a_card_nobody_waits_for_what_a_pass_is_given(
    tiny: PackedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def score_batch(batch: Batch) -> Tensor:
        return batch.firsts.float()

    with no_card(monkeypatch) as card:
        monkeypatch.setattr(tiny, "score_batch", score_batch)
        graphed = GraphedModel(tiny, CARD, lambda step: step)
        graphed(random_rows([9]))
        card.crossings.clear()

        logits = graphed(random_rows([9, 5]))

    assert (logits.dtype, logits.device, logits.shape) == (torch.float32, CARD, (2,))
    assert [(crossing.to, crossing.waits) for crossing in card.crossings] == [("cuda", False)]


def test_passes_are_recorded_on_cards_alone(tiny: PackedModel) -> None:
    assert in_few_launches(tiny, CPU) is tiny
