"""What a precision may cost, and that a pair's score does not depend on who shares its batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerankq_worker.engine import Engine, EngineError, PrecisionRefused, linears, precision
from rerankq_worker.engine.precision import bf16_pays, choose_device, choose_precision

Plain = Callable[[Any], np.ndarray[Any, Any]]

NEIGHBOUR_TOLERANCE = {"fp32": 1e-5, "fp16": 1e-5, "bf16": 0.05, "bf16 in fp32": 1e-5, "int8": 1e-4}
"""Logits: by how much a pair may move with its batch. Written in docs/engine.md."""
COST_TOLERANCE = {"fp32": 1e-5, "fp16": 0.01, "bf16": 0.2, "bf16 in fp32": 0.1, "int8": 0.3}
"""Logits: by how much this tiny model, whose wide random weights magnify every error, may move on average."""

OFFERED = [
    pytest.param("fp32"),
    pytest.param("fp16"),
    pytest.param("bf16"),
    pytest.param("bf16 in fp32"),
    pytest.param(
        "int8", marks=pytest.mark.skipif(not linears.can_compute_int8(), reason="no int8 product here")
    ),
]
LENGTHS = st.lists(st.integers(1, 120), max_size=6)


@pytest.fixture(scope="module")
def engines(tiny_dir: Path) -> dict[str, Engine]:
    return {}


@pytest.fixture
def engine_in(tiny_dir: Path, engines: dict[str, Engine]) -> Callable[[str], Engine]:
    def load(dtype: str) -> Engine:
        if dtype not in engines:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(precision, "bf16_pays", lambda: dtype == "bf16")
                engines[dtype] = Engine.load(tiny_dir, device="cpu", dtype=dtype.split()[0])
        return engines[dtype]

    return load


def random_row(length: int, seed: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    return np.random.default_rng(seed).integers(4, 180, size=length, dtype=np.int32)


@pytest.mark.parametrize("dtype", OFFERED)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(1, 120), before=LENGTHS, after=LENGTHS, seed=st.integers(0, 50))
def test_a_pair_scores_the_same_whoever_shares_its_batch(
    engine_in: Callable[[str], Engine],
    dtype: str,
    length: int,
    before: list[int],
    after: list[int],
    seed: int,
) -> None:
    engine, row = engine_in(dtype), random_row(length, seed)
    alone = engine.score([row])[0]

    batch = [random_row(n, i) for i, n in enumerate(before)] + [row] + [random_row(n, n) for n in after]

    assert abs(engine.score(batch)[len(before)] - alone) <= NEIGHBOUR_TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", OFFERED)
def test_a_precision_costs_no_more_than_it_says(
    engine_in: Callable[[str], Engine], plain_logits: Plain, dtype: str
) -> None:
    rows = [random_row(length, length) for length in range(5, 125, 4)]

    difference = np.abs(engine_in(dtype).score(rows) - plain_logits(rows))

    assert difference.mean() <= COST_TOLERANCE[dtype]


def test_the_test_model_tells_documents_apart(plain_logits: Plain) -> None:
    """Otherwise the tolerances above would hold for any wrong score."""
    assert np.std(plain_logits([random_row(length, length) for length in range(5, 125, 4)])) > 0.3


def test_auto_is_exact_on_a_cpu() -> None:
    assert choose_precision("auto", torch.device("cpu")).name == "fp32"


def test_auto_is_half_precision_on_a_gpu() -> None:
    assert choose_precision("auto", torch.device("cuda")).name == "fp16"


@pytest.mark.parametrize(
    ("dtype", "device", "way_out"),
    [
        ("bf16", "cuda", "use fp16"),
        ("int8", "cuda", "use fp16"),
        ("fp8", "cpu", "expected a dtype of auto, fp32"),
    ],
)
def test_a_precision_that_does_not_pay_is_refused_with_a_way_out(
    dtype: str, device: str, way_out: str
) -> None:
    with pytest.raises(PrecisionRefused, match=way_out):
        choose_precision(dtype, torch.device(device))


@pytest.mark.parametrize("pays", [False, True])
def test_bf16_is_computed_in_fp32_where_its_products_do_not_pay(
    pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "bf16_pays", lambda: pays)

    chosen = choose_precision("bf16", torch.device("cpu"))

    assert (chosen.name, chosen.weights) == ("bf16", torch.bfloat16)
    assert chosen.body is (torch.bfloat16 if pays else torch.float32)


@pytest.mark.parametrize(
    ("supported", "fp32_seconds", "bf16_seconds", "pays"),
    [(True, 2.0, 1.0, True), (True, 1.0, 2.0, False), (True, 1.1, 1.0, False), (False, 2.0, 1.0, False)],
    ids=["twice as fast", "half as fast", "hardly faster", "emulated"],
)
def test_bf16_pays_where_its_products_are_clearly_faster(
    supported: bool, fp32_seconds: float, bf16_seconds: float, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {torch.float32: fp32_seconds, torch.bfloat16: bf16_seconds}
    monkeypatch.setattr(precision, "_has_bf16_instructions", lambda: supported)
    monkeypatch.setattr(precision, "seconds_of_product", seconds.__getitem__)

    bf16_pays.cache_clear()
    try:
        assert bf16_pays() is pays
    finally:
        bf16_pays.cache_clear()


def test_fp16_on_a_cpu_is_held_in_half_and_computed_in_fp32() -> None:
    chosen = choose_precision("fp16", torch.device("cpu"))

    assert (chosen.embeddings, chosen.weights, chosen.body) == (torch.float16, torch.float16, torch.float32)


@pytest.mark.parametrize("device", ["tpu", "mps", "vulkan:0", "nonsense"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(EngineError, match="expected a device such as auto, cpu, cuda"):
        choose_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is visible")
def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu() -> None:
    with pytest.raises(EngineError, match="no GPU is visible"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


@pytest.mark.parametrize("device", ["cuda:2", "cuda:7"])
def test_a_gpu_beyond_the_last_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    assert choose_device("cuda:1").index == 1
    with pytest.raises(EngineError, match=f"expected a GPU below cuda:2, got {device}"):
        choose_device(device)


@pytest.mark.parametrize("gelu", [False, True], ids=["linear", "linear and GELU"])
@pytest.mark.parametrize(
    ("make", "cost"),
    [
        pytest.param(linears.prepacked_linear, 1e-5, id="prepacked"),
        pytest.param(linears.WidenedLinears(torch.float16), 2e-3, id="fp16 widened"),
        pytest.param(linears.WidenedLinears(torch.bfloat16), 0.01, id="bf16 widened"),
        pytest.param(linears.int8_linear, 0.02, id="int8"),
    ],
)
def test_every_kind_of_linear_computes_the_plain_one(
    make: linears.MakeLinear, cost: float, gelu: bool
) -> None:
    """Cost: the mean error as a share of what the outputs vary by."""
    torch.manual_seed(0)
    weight, bias, x = torch.randn(24, 48), torch.randn(24), torch.randn(7, 48)
    x[3] = 0

    expected = linears.plain_linear(weight, bias, gelu)(x)

    assert (make(weight, bias, gelu)(x) - expected).abs().mean() <= cost * float(expected.std())


def test_widened_products_of_several_sizes_share_one_buffer() -> None:
    make = linears.WidenedLinears(torch.bfloat16)
    small, large = torch.ones(2, 3), torch.full((5, 2), 2.0)
    first, second = make(small, torch.zeros(2), False), make(large, torch.zeros(5), False)

    x = torch.ones(1, 3)

    assert second(first(x)).tolist() == [[12.0] * 5]
    assert first(x).tolist() == [[3.0, 3.0]]


def test_a_torch_without_the_private_operation_gets_plain_linears(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*args: object) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(linears, "prepacked_linear", gone)
    linears.can_prepack.cache_clear()
    try:
        make = linears.choose_linear(torch.device("cpu"), torch.float32, torch.float32)
        assert make(torch.eye(2), torch.ones(2), False)(torch.eye(2)).tolist() == [[2.0, 1.0], [1.0, 2.0]]
    finally:
        linears.can_prepack.cache_clear()
