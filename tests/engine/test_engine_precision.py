"""What a precision may cost, and that a pair's score does not depend on who shares its batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rerankq_worker.engine import Engine, EngineError, PrecisionRefused, linears
from rerankq_worker.engine.precision import choose_device, choose_precision

Plain = Callable[[Any], np.ndarray[Any, Any]]

NEIGHBOUR_TOLERANCE = {"fp32": 1e-5, "bf16": 0.05, "int8": 1e-4}
"""Logits: by how much a pair may move with its batch. Written in docs/engine.md."""
COST_TOLERANCE = {"fp32": 1e-5, "bf16": 0.2, "int8": 0.3}
"""Logits: by how much this tiny model, whose wide random weights magnify every error, may move on average."""

OFFERED = [
    pytest.param("fp32"),
    pytest.param("bf16"),
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
            engines[dtype] = Engine.load(tiny_dir, device="cpu", dtype=dtype)
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
        ("fp16", "cpu", "use bf16, int8 or fp32"),
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


@pytest.mark.parametrize("device", ["tpu", "mps", "vulkan:0", "nonsense"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(EngineError, match="expected a device such as auto, cpu, cuda"):
        choose_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is visible")
def test_a_gpu_that_is_not_there_is_not_replaced_by_the_cpu() -> None:
    with pytest.raises(EngineError, match="no GPU is visible"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"


@pytest.mark.parametrize("gelu", [False, True], ids=["linear", "linear and GELU"])
@pytest.mark.parametrize("make", [linears.prepacked_linear, linears.int8_linear], ids=["prepacked", "int8"])
def test_every_kind_of_linear_computes_the_plain_one(make: linears.MakeLinear, gelu: bool) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(24, 48), torch.randn(24), torch.randn(7, 48)
    x[3] = 0

    expected = linears.plain_linear(weight, bias, gelu)(x)

    tolerance = 1e-5 if make is linears.prepacked_linear else 0.02 * float(expected.std())
    assert (make(weight, bias, gelu)(x) - expected).abs().mean() <= tolerance


def test_a_torch_without_the_private_operation_gets_plain_linears(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*args: object) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(linears, "prepacked_linear", gone)
    linears.can_prepack.cache_clear()
    try:
        assert linears.choose_linear(torch.device("cpu"), int8=False) is linears.plain_linear
    finally:
        linears.can_prepack.cache_clear()
