"""Every forward pass as a card would compute it, on one that computes nothing (`no_card`)."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.gpu_check.candidates import flash
from rerankq_worker.engine import attention, unpadded_model
from rerankq_worker.engine.attention import VariableLength, choose_attention, padded
from rerankq_worker.engine.batch import lay_out
from rerankq_worker.engine.crossing import to_host
from rerankq_worker.engine.linears import choose_linear
from rerankq_worker.engine.loading import FORWARDS, load_reference
from rerankq_worker.engine.packed_model import PackedModel
from rerankq_worker.engine.precision import choose_precision
from rerankq_worker.engine.sentence_transformers_model import CrossEncoderModel
from rerankq_worker.model.files import family_of
from tests.engine.definition import random_rows
from tests.engine.no_card import CARD, Card, Crossing, no_card, really
from tests.model_dirs import TOKENIZERS, build_model_dir

LENGTHS = [5, 9, 9, 200]
ROWS = random_rows(LENGTHS)
ROWS[1] = np.concatenate([ROWS[1][:4], ~ROWS[1][4:]])  # of a second segment, where the model has one
of_one_kind_each = pytest.mark.parametrize("directory", ["bert", "modernbert"], indirect=True)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    # asked while a model is built, of numbers, which there are none of here
    monkeypatch.setattr(unpadded_model, "_is_gelu", lambda activation: "GELU" in type(activation).__name__)
    with no_card(monkeypatch) as card:
        yield card


@pytest.fixture(scope="module", params=sorted(TOKENIZERS))
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_dir(tmp_path_factory.mktemp("models") / request.param, "tiny", request.param)


def on_card(directory: Path, dtype: str, way: attention.Attention | None = None) -> PackedModel:
    precision, family = choose_precision(dtype, CARD), family_of(directory)
    way = way or choose_attention(CARD, precision.body, 8)
    make_linear = choose_linear(CARD, precision.weights, precision.body)
    source = really(load_reference, directory)
    return FORWARDS[family.forward](source, family, CARD, precision, make_linear, way)


def by_torch() -> VariableLength:
    from torch.nn.attention import varlen  # not at collection, which every process does

    return VariableLength(varlen.varlen_attn)


@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_every_family_computes_on_a_card(card: Card, directory: Path, dtype: str) -> None:
    model = on_card(directory, dtype)
    card.crossings.clear()

    logits = model(ROWS)

    assert (logits.dtype, logits.device, logits.shape) == (torch.float32, CARD, (len(ROWS),))
    assert model.pads is (dtype == "fp32")
    assert [(crossing.to, crossing.waits) for crossing in card.crossings] == [("cuda", False)]


@of_one_kind_each
def test_it_computes_exactly_on_a_card_and_with_its_weights_on_the_cpu(card: Card, directory: Path) -> None:
    model = on_card(directory, "fp16")

    exact = [model.exactly(where, ROWS) for where in (CARD, torch.device("cpu"))]

    assert [(logits.dtype, logits.device.type) for logits in exact] == [
        (torch.float32, "cuda"),
        (torch.float32, "cpu"),
    ]


@pytest.mark.parametrize(
    ("asking", "window"), [(sum(LENGTHS), None), (len(LENGTHS), None), (sum(LENGTHS), 4)]
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize(
    "choose",
    [by_torch, lambda: VariableLength(flash), lambda: padded],
    ids=["torch's", "direct", "padded"],
)
def test_each_way_of_attention_gives_what_the_next_layer_takes(
    card: Card,
    choose: Callable[[], attention.Attention],
    dtype: torch.dtype,
    asking: int,
    window: int | None,
) -> None:
    batch = lay_out(ROWS, CARD)
    queries, keys, values = torch.empty(sum(LENGTHS), 3, 4, 64, device=CARD, dtype=dtype).unbind(1)

    attended = choose()(queries[:asking], keys, values, batch, window)

    assert (attended.shape, attended.dtype, attended.device) == ((asking, 4, 64), dtype, CARD)


@of_one_kind_each
def test_a_kernel_without_windows_makes_a_model_of_windows_a_padded_one(card: Card, directory: Path) -> None:
    pads = [on_card(directory, "fp16", way).pads for way in (VariableLength(flash), by_torch())]

    assert pads == [family_of(directory).forward == "modernbert", False]


@pytest.mark.parametrize(
    ("capability", "body", "head", "packs"),
    [
        ((8, 0), torch.float16, 64, True),
        ((9, 0), torch.float16, 256, True),
        ((7, 5), torch.float16, 64, False),
        ((9, 0), torch.float32, 64, False),
        ((9, 0), torch.float16, 26, False),
        ((9, 0), torch.float16, 264, False),
    ],
    ids=["Ampere", "Hopper", "Turing", "fp32", "heads of no multiple of 8", "heads too wide"],
)
def test_a_card_packs_where_its_kernels_can(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], body: torch.dtype, head: int, packs: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)

    assert (choose_attention(CARD, body, head) is not padded) is packs


@of_one_kind_each
def test_what_padding_needs_is_made_once_a_batch(card: Card, directory: Path) -> None:
    model = on_card(directory, "fp32", padded)
    card.operations.clear()

    model(ROWS)

    assert sum("repeat_interleave" in name for name in card.operations) == 1
    masks = sum(name.startswith("aten.lt.") for name in card.operations)
    assert masks == (2 if family_of(directory).forward == "modernbert" else 1)  # windows have one more


def test_logits_are_on_their_way_before_the_next_batch_is_begun(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[Any] = []

    class Event:
        def record(self, stream: object) -> None:
            waited.append(("records on", stream))

        def synchronize(self) -> None:
            waited.append("waits")

        def query(self) -> bool:
            return True

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", str)

    wait = to_host(torch.empty(3, device=CARD))

    assert [(crossing.to, crossing.waits) for crossing in card.crossings] == [("cpu", False)]
    assert "aten.pin_memory.default" in card.operations
    assert waited == [("records on", "cuda:0")]
    card.operations.clear()
    assert wait().device.type == "cpu"
    assert (waited[1:], card.operations) == (["waits"], [])


@pytest.mark.parametrize(
    "read",
    [lambda x: x.tolist(), lambda x: x.max().item(), lambda x: x[x > 0], lambda x: bool(x.any())],
    ids=["list", "number", "what a mask leaves", "truth"],
)
def test_a_number_that_the_host_would_wait_for_is_seen(card: Card, read: Callable[[Tensor], Any]) -> None:
    with pytest.raises((RuntimeError, TypeError)) as seen:
        read(torch.empty(3, device=CARD))

    assert type(seen.value).__name__ in ("DataDependentOutputException", "DynamicOutputShapeException")


def test_a_copy_that_the_host_would_wait_for_is_seen(card: Card) -> None:
    torch.empty(3, device=CARD).cpu()
    torch.empty(3).to(CARD)

    assert [(crossing.to, crossing.waits) for crossing in card.crossings] == [("cpu", True), ("cuda", True)]
    assert isinstance(card.crossings[0], Crossing)


@pytest.mark.parametrize("family", ["xlm-roberta", "bert", "modernbert"])
def test_sentence_transformers_modules_compute_on_a_card(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    directory = really(build_model_dir, tmp_path / family, "tiny", family)
    model = really(CrossEncoderModel, directory, torch.device("cpu"), "fp32")
    for module in model._cross_encoder.modules():
        for held in (module._parameters, module._buffers):
            for name in [name for name, tensor in held.items() if tensor is not None]:
                dtype = torch.float16 if held is module._parameters else held[name].dtype
                held[name] = torch.empty(held[name].shape, dtype=dtype, device=CARD)
    monkeypatch.setattr(model, "_device", CARD)
    card.crossings.clear()

    logits = model(ROWS)

    assert (logits.dtype, logits.device, logits.shape) == (torch.float32, CARD, (len(ROWS),))
    assert not any(crossing.waits for crossing in card.crossings)
