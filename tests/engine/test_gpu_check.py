"""What `benchmarks.gpu_check` stands on, as far as it can be seen without a GPU."""

import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import transformers

from benchmarks.gpu_check.__main__ import numbered
from benchmarks.gpu_check.bench import Bench
from benchmarks.gpu_check.candidates import Candidate
from benchmarks.gpu_check.checks import checks
from benchmarks.gpu_check.report import Found, Report
from tests.conftest import REPOSITORY
from tests.engine.definition import plain_model, random_rows
from tests.engine.no_card import CARD, no_card, really
from tests.model_dirs import SHAPES, xlmr_config

CPU = torch.device("cpu")
VARIANTS = {"plain": False, "tanh GELU in its product": True}


@pytest.fixture(scope="module")
def source() -> torch.nn.Module:
    torch.manual_seed(3)
    return transformers.XLMRobertaForSequenceClassification(xlmr_config(SHAPES["tiny"], 200)).eval()


@pytest.mark.parametrize(
    ("name", "number"), [("cuda", 0), ("cuda:1", 1), ("cpu", None)], ids=["a card", "the second", "none"]
)
def test_a_card_is_asked_for_by_number(name: str, number: int | None) -> None:
    assert (numbered(name).type, numbered(name).index) == (name.split(":")[0], number)


def test_a_check_that_breaks_is_told_and_the_next_one_runs(capsys: pytest.CaptureFixture[str]) -> None:
    def breaks(found: Found) -> None:
        found["so far"] = 1
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    report = Report(seconds=60)
    report.run("first", breaks)
    report.run("second", lambda found: found.update(fine=True))

    document = report.document()
    assert document["failed"] == ["first: RuntimeError: CUDA error: an illegal memory access was encountered"]
    assert (document["checks"]["first"]["so far"], document["checks"]["second"]["fine"]) == (1, True)
    assert "Traceback" in capsys.readouterr().err


def test_a_check_for_which_no_time_is_left_is_told() -> None:
    report = Report(seconds=-1)
    report.run("late", lambda found: found.update(fine=True))

    assert report.document()["failed"] == ["late: no time left"]
    assert report.checks == {}


def test_a_broken_kernel_costs_its_check_and_leaves_the_plain_one_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.gpu_check.add_norm", None)  # as where there is no Triton
    monkeypatch.setattr(Bench, "on_card", True)
    bench, report = Bench(CPU, tiny=True), Report(60)

    report.run("fused add and norm", checks(bench)["fused add and norm"])

    assert report.failed[0].startswith("fused add and norm: ModuleNotFoundError")
    assert bench.forwards["+ fused norm"].add_norm.__name__ == "eager_add_norm"  # type: ignore[attr-defined]


@pytest.mark.parametrize("tanh_gelu", VARIANTS.values(), ids=VARIANTS)
def test_a_candidate_computes_what_the_engine_does(source: torch.nn.Module, tanh_gelu: bool) -> None:
    candidate = Candidate.of(source, CPU, torch.float32).having(tanh_gelu=tanh_gelu)
    rows = random_rows([1, 9, 9, 40])

    np.testing.assert_allclose(candidate(rows).numpy(), plain_model(source)(rows), atol=1e-3)


@pytest.mark.parametrize("tanh_gelu", VARIANTS.values(), ids=VARIANTS)
def test_a_candidate_computes_on_a_card(
    source: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, tanh_gelu: bool
) -> None:
    candidate = really(Candidate.of, source, CPU, torch.float32)
    with no_card(monkeypatch) as card:
        candidate = Candidate.of(source, CARD, torch.float16).having(tanh_gelu=tanh_gelu)
        card.crossings.clear()

        logits = candidate(random_rows([1, 9, 9, 40]))

    assert (logits.dtype, logits.device, logits.shape) == (torch.float32, CARD, (4,))
    assert [(crossing.to, crossing.waits) for crossing in card.crossings] == [("cuda", False)]


IN_THE_INTERPRETER = """
import torch
from benchmarks.gpu_check.add_norm import add_norm
half = torch.float16
for rows, hidden, dtype, far in ((1, 32, torch.float32, 1e-5), (7, 384, half, 1e-2), (3, 1024, half, 1e-2)):
    torch.manual_seed(hidden)
    x, residual = torch.randn(2, rows, hidden, dtype=dtype)
    weight, bias = torch.randn(2, hidden, dtype=dtype)
    exact = torch.nn.functional.layer_norm(
        x.double() + residual.double(), (hidden,), weight.double(), bias.double(), 1e-5)
    apart = (add_norm(x, residual, weight, bias, 1e-5).double() - exact).abs().max().item()
    assert apart <= far, (rows, hidden, dtype, apart)
"""
COMPILED_FOR_HOPPER = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from benchmarks.gpu_check.add_norm import add_norm_kernel
half = dict.fromkeys(("X", "R", "W", "B", "Y"), "*fp16")
signature = {**half, "eps": "fp32", "N": "constexpr", "BLOCK": "constexpr"}
source = ASTSource(add_norm_kernel, signature, {"N": 1024, "BLOCK": 1024})
assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="no triton here; torch's builds with CUDA bring it")
@pytest.mark.parametrize(
    ("program", "interpreted"),
    [(IN_THE_INTERPRETER, True), (COMPILED_FOR_HOPPER, False)],
    ids=["in the interpreter as in fp64", "compiled for sm_90"],
)
def test_the_fused_norm_computes(program: str, interpreted: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env={"PATH": "", "HOME": "/tmp", "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'worker'}"}
        | ({"TRITON_INTERPRET": "1"} if interpreted else {}),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
