"""The checks. Each writes what it finds; those of a card alone leave nothing on a CPU. Knows the engine's own seams."""

import gc
import importlib
import os
import platform
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu_check.bench import LONGEST, Bench
from benchmarks.gpu_check.candidates import AddNorm, eager_add_norm, flash_of
from benchmarks.gpu_check.report import Found
from benchmarks.gpu_check.timing import Timing
from rerankq_worker.engine import attention
from rerankq_worker.engine.batch import lay_out
from rerankq_worker.engine.loading import Forward
from rerankq_worker.scoring import EngineBroken, TokenIds
from tests.model_dirs import Shape

IDS = (4, 200)
BATCHES_IN_A_ROW = 20
OUT_OF_MEMORY_ROOM_BYTES = 300 * 2**20
FP8_SHAPES = ((5120, 3072, 1024), (5120, 1024, 1024), (5120, 4096, 1024), (5120, 1024, 4096))


def checks(bench: Bench) -> dict[str, Callable[[Found], None]]:
    """By name, in the order in which they are run: what a failure would lose the card to comes late."""
    speeds = {f"speed: {size}": partial(speed, bench, lengths) for size, lengths in bench.sizes.items()}
    return {
        "machine": partial(machine, bench),
        "build": partial(build, bench),
        "scores: engine against fp32 on the CPU": partial(scores, bench),
        "memory: 32 x 512 and warm-up's budget": partial(memory, bench),
        "overlap: score against begin": partial(overlap, bench),
        "attention: each way against the CPU": partial(attention_ways, bench),
        "fused add and norm": partial(fused_add_norm, bench),
        "scores: candidates": partial(scores_of_candidates, bench),
        **speeds,
        "attention alone, 24 layers": partial(attention_alone, bench),
        "fp8 products": partial(fp8_products, bench),
        "a very large batch: 1024 pairs of 1024 tokens": partial(very_large_batch, bench),
        "out of memory: halved and right": partial(out_of_memory, bench),
        "device lost: told as EngineBroken": partial(device_lost, bench),
    }


def machine(bench: Bench, found: Found) -> None:
    found.update(python=platform.python_version(), torch=torch.__version__, cpus=os.cpu_count())
    large, small = (128, 64) if bench.tiny else (8192, 2048)
    bench.peak_flops = _product_flops(bench, large)
    found["products_tflops"] = {
        size: round(flops / 1e12, 2)
        for size, flops in ((large, bench.peak_flops), (small, _product_flops(bench, small)))
    }
    if not bench.on_card:
        return
    matmul = torch.backends.cuda.matmul
    found.update(
        cuda=torch.version.cuda,
        gpu=torch.cuda.get_device_name(),
        capability=torch.cuda.get_device_capability(),
        free_and_total_bytes=torch.cuda.mem_get_info(),
        tf32=matmul.allow_tf32,
        fp16_reduced=matmul.allow_fp16_reduced_precision_reduction,
    )
    x = torch.empty(2**28, device=bench.device, dtype=bench.body)
    y = torch.empty_like(x)
    found["copy_tb_s"] = round(2 * x.nbytes / bench.timing.queued(lambda: y.copy_(x)) / 1e9, 2)


def _product_flops(bench: Bench, size: int) -> float:
    x = torch.randn(size, size, device=bench.device, dtype=bench.body)
    return 2 * size**3 / (bench.timing.queued(lambda: torch.mm(x, x)) / 1e3)


def build(bench: Bench, found: Found) -> None:
    chosen = bench.plain._attention
    found["attention"] = getattr(chosen, "__name__", type(chosen).__name__)
    found["exact"] = bench.exact.pads is False
    if bench.on_card:
        found["held_bytes"] = torch.cuda.memory_allocated()


def scores(bench: Bench, found: Found) -> None:
    rows = rows_of(bench.lengths)
    expected, got = _exactly(bench, rows), _logits(bench.model, rows)
    alone = np.concatenate([_logits(bench.model, [row]) for row in rows])
    found.update(
        largest_difference=_apart(got, expected),
        by_company=_apart(got, alone),
        spread=float(expected.std()),
        finite=bool(np.isfinite(got).all()),
    )


def attention_ways(bench: Bench, found: Found) -> None:
    batch = lay_out(rows_of(bench.lengths), bench.device)
    projected = bench.projections(sum(bench.lengths))
    ways: dict[str, attention.Attention] = {
        "padded": attention.padded,
        "direct": attention.VariableLength(flash_of(bench.device)),
    }
    if bench.on_card:
        ways["chosen"] = bench.plain._attention
    for asking, queries in (
        ("all ask", projected[0]),
        ("firsts ask", projected[0].index_select(0, batch.firsts)),
    ):
        given = (queries, *projected[1:])
        expected = attention.per_row(*(x.float().cpu() for x in given), batch)
        for name, way in ways.items():
            found[f"{name}, {asking}"] = float((way(*given, batch).float().cpu() - expected).abs().max())


def memory(bench: Bench, found: Found) -> None:
    if not bench.on_card:
        return
    _empty()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    bench.model(rows_of([512] * 32)).cpu()
    found["activations_mib"] = (torch.cuda.max_memory_allocated() - held) // 2**20
    engine = bench.engine(32, LONGEST, bench.device)
    engine.warm_up()
    found["budget_of_32_pairs"] = engine.info.max_batch_tokens
    _empty()


def fused_add_norm(bench: Bench, found: Found) -> None:
    """On a card the kernel in Triton, which the candidates use from here on."""
    if not bench.on_card:
        return
    fused: AddNorm = importlib.import_module("benchmarks.gpu_check.add_norm").add_norm
    hidden = bench.shape.hidden
    x, residual = torch.randn(2, 777, hidden, device=bench.device, dtype=bench.body)
    weight, bias = torch.randn(2, hidden, device=bench.device, dtype=bench.body)
    exact = functional.layer_norm(
        x.double() + residual.double(), (hidden,), weight.double(), bias.double(), 1e-5
    )
    for name, norm in (("error", fused), ("eager_error", eager_add_norm)):
        got = norm(x.clone(), residual, weight, bias, 1e-5)
        found[name] = float((got.double() - exact).abs().max())
    bench.add_norm = fused


def scores_of_candidates(bench: Bench, found: Found) -> None:
    rows = rows_of(bench.lengths)
    expected = _exactly(bench, rows)
    for name, forward in bench.forwards.items():
        found[name] = _apart(_logits(forward, rows), expected)


def speed(bench: Bench, lengths: list[int], found: Found) -> None:
    rows, timing = rows_of(lengths), bench.timing
    expected = _logits(bench.model, rows)
    for name, forward in bench.forwards.items():
        step = _step(forward, rows)
        ms, launch_ms = timing.one_by_one(step)
        queued_ms = timing.queued(step)
        found[name] = {
            "ms": ms,
            "launch_ms": launch_ms,
            "queued_ms": queued_ms,
            "pairs_s": round(len(rows) / queued_ms * 1e3),
            "tflops": round(_flops(bench.shape, lengths) / queued_ms / 1e9, 4),
            "mfu": round(_flops(bench.shape, lengths) / (queued_ms / 1e3) / (bench.peak_flops or 1e12), 3),
            "off": _apart(_logits(forward, rows), expected),
        }


def overlap(bench: Bench, found: Found) -> None:
    engine = bench.engine(32, 32 * LONGEST)
    batch = rows_of([16] * 3 if bench.tiny else [160] * 32)

    def one_by_one() -> None:
        for _ in range(BATCHES_IN_A_ROW):
            engine.score(batch)

    def two_in_flight() -> None:
        waiting = engine.begin(batch)
        for _ in range(BATCHES_IN_A_ROW - 1):
            next_one = engine.begin(batch)
            waiting()
            waiting = next_one
        waiting()

    timing = Timing(bench.device, repeats=2 if bench.tiny else 5, warm=1)
    for name, step in (("score_ms_a_batch", one_by_one), ("begin_ms_a_batch", two_in_flight)):
        found[name] = round(timing.one_by_one(step)[0] / BATCHES_IN_A_ROW, 4)


def attention_alone(bench: Bench, found: Found) -> None:
    kernel = flash_of(bench.device)
    for size, lengths in bench.sizes.items():
        batch, longest = lay_out(rows_of(lengths), bench.device), max(lengths)
        projected = bench.projections(sum(lengths))

        def step(
            batch: Any = batch, longest: int = longest, projected: tuple[Tensor, ...] = projected
        ) -> None:
            for _ in range(24):
                kernel(*projected, batch.offsets, batch.offsets, longest, longest)

        found[size] = bench.timing.queued(step)


def fp8_products(bench: Bench, found: Found) -> None:
    if not bench.on_card:
        return
    scaled: Any = torch._scaled_mm
    one = torch.ones((), device=bench.device)
    for rows, outputs, inputs in FP8_SHAPES:
        x = torch.randn(rows, inputs, device=bench.device, dtype=bench.body)
        weight = torch.randn(outputs, inputs, device=bench.device, dtype=bench.body)
        bias = torch.randn(outputs, device=bench.device, dtype=bench.body)
        x8, weight8 = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn).t()
        by_row = torch.ones(rows, 1, device=bench.device), torch.ones(1, outputs, device=bench.device)
        steps: dict[str, Callable[[], object]] = {
            "fp16_ms": lambda x=x, w=weight, b=bias: functional.linear(x, w, b),
            "fp8_tensor_ms": lambda x=x8, w=weight8: scaled(
                x, w, scale_a=one, scale_b=one, out_dtype=bench.body
            ),
            "fp8_row_ms": lambda x=x8, w=weight8, s=by_row: scaled(
                x, w, scale_a=s[0], scale_b=s[1], out_dtype=torch.bfloat16
            ),
        }
        found[f"{rows}x{outputs}x{inputs}"] = {
            name: bench.timing.queued(step) for name, step in steps.items()
        }


def very_large_batch(bench: Bench, found: Found) -> None:
    """More than 2**31 elements in one tensor."""
    if not bench.on_card:
        return
    engine = bench.engine(1024, LONGEST, bench.device)
    engine.warm_up()
    found["budget"] = engine.info.max_batch_tokens
    many = rows_of([LONGEST] * min(1024, engine.info.max_batch_tokens // LONGEST))
    together = engine.score(many)
    found.update(
        pairs=len(many),
        last_row_off=float(abs(together[-1] - engine.score(many[-1:])[0])),
        budget_after=engine.info.max_batch_tokens,
    )
    _empty()


def out_of_memory(bench: Bench, found: Found) -> None:
    if not bench.on_card:
        return
    engine, rows = bench.engine(32, 32 * LONGEST), rows_of([LONGEST] * 32)
    expected = engine.score(rows)
    _empty()
    allowed = torch.cuda.memory_reserved() + OUT_OF_MEMORY_ROOM_BYTES
    total = torch.cuda.get_device_properties(bench.device).total_memory
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    try:
        found["largest_difference"] = _apart(engine.score(rows), expected)
        found["budget_now"] = engine.info.max_batch_tokens
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def device_lost(bench: Bench, found: Found) -> None:
    """By an id beyond the table, which an engine that knows its vocabulary refuses: CUDA is gone afterwards."""
    if not bench.on_card:
        return
    engine = bench.engine(32, 32 * LONGEST)
    engine._vocabulary_size = 2**30
    try:
        engine.score([np.full(8, bench.vocabulary + 10**6, np.int32)])
        found["told"] = "nothing"
    except EngineBroken as error:
        found["told"] = str(error)[:120]


def rows_of(lengths: Sequence[int], seed: int = 0) -> list[TokenIds]:
    random = np.random.default_rng(seed)
    return [random.integers(*IDS, size=length, dtype=np.int32) for length in lengths]


def _step(forward: Forward, rows: Sequence[TokenIds]) -> Callable[[], object]:
    return lambda: forward(rows)


def _logits(forward: Forward, rows: Sequence[TokenIds]) -> np.ndarray[Any, Any]:
    return forward(rows).cpu().numpy().copy()


def _exactly(bench: Bench, rows: Sequence[TokenIds]) -> np.ndarray[Any, Any]:
    return np.concatenate([_logits(bench.exact, [row]) for row in rows])


def _apart(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    return float(np.abs(one - other).max())


def _flops(shape: Shape, lengths: Sequence[int]) -> float:
    """Multiply-adds times two; embeddings and head left out."""
    per_token = 2 * (4 * shape.hidden**2 + 2 * shape.hidden * shape.ffn)
    return float(shape.layers * sum(n * per_token + 4 * n * n * shape.hidden for n in lengths))


def _empty() -> None:
    gc.collect()
    torch.cuda.empty_cache()
