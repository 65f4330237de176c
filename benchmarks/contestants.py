"""Who races in `bench_engine`: the engine, CrossEncoder, and engines that want a Python of their own.

Knows how each is loaded and asked; no clock and no workload.
"""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from rerankq_worker.engine import Engine

Pair = tuple[str, str]
Score = Callable[[Sequence[Pair]], np.ndarray]

BASELINE = "crossencoder"
PAIRS = 32  # of one batch, as everybody has it by default
KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STAND_IN = "crossencoder by transformers"
CHILDREN: list["subprocess.Popen[str]"] = []
"""The processes that were started for contestants elsewhere."""


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    dtype: str
    make: Callable[[Path, str, int], Score]
    """Model directory, device, length in tokens; gives a function from pairs to logits or scores."""


def ours(dtype: str, pairs: int = PAIRS) -> Contestant:
    """The engine, with batches of at most so many pairs."""

    def make(model: Path, device: str, length: int) -> Score:
        engine = Engine.load(
            model, device=device, dtype=dtype, max_length_tokens=length, max_batch_pairs=pairs
        )
        engine.warm_up()
        return engine.score_pairs

    return Contestant(f"rerankq {dtype}" + (f" batch {pairs}" if pairs != PAIRS else ""), dtype, make)


def cross_encoder(name: str, dtype: str, batch: int) -> Contestant:
    def make(model: Path, device: str, length: int) -> Score:
        from sentence_transformers import CrossEncoder

        encoder = CrossEncoder(
            str(model), device=device, max_length=length, model_kwargs={"torch_dtype": KINDS[dtype]}
        )
        return lambda pairs: encoder.predict(
            list(pairs), batch_size=batch, activation_fn=torch.nn.Identity(), show_progress_bar=False
        )

    return Contestant(name, dtype, make)


def plain_transformers(name: str, dtype: str, batch: int) -> Contestant:
    """What CrossEncoder does, where it is not installed: its modules, on pairs sorted by characters and padded."""

    def make(model: Path, device: str, length: int) -> Score:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(model)
        encoder = AutoModelForSequenceClassification.from_pretrained(model, dtype=KINDS[dtype]).to(device)

        def logits(pairs: Sequence[Pair]) -> np.ndarray:
            read = tokenizer(*zip(*pairs, strict=True), padding=True, truncation=True, max_length=length)
            features = read.convert_to_tensors("pt").to(device)
            return encoder(**features).logits[:, 0].float().cpu().numpy()

        @torch.inference_mode()
        def score(pairs: Sequence[Pair]) -> np.ndarray:
            order = sorted(range(len(pairs)), key=lambda place: -sum(map(len, pairs[place])))
            parts = [order[start : start + batch] for start in range(0, len(order), batch)]
            scored = np.concatenate([logits([pairs[place] for place in part]) for part in parts])
            return scored[np.argsort(order)]

        return score

    return Contestant(name, dtype, make)


def end_children() -> None:
    """infinity does not end with its input, and what it does meanwhile would count for the next race."""
    while CHILDREN:
        child = CHILDREN.pop()
        child.kill()
        child.communicate()


def elsewhere(name: str, python: str, program: str, dtype: str) -> Contestant:
    """A contestant in a Python of its own: JSON lines in and out, timed there is nothing but the scoring call."""

    def make(model: Path, device: str, length: int) -> Score:
        child = subprocess.Popen(
            [python, "-c", program, str(model), device, str(length)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"},
        )
        CHILDREN.append(child)

        def score(pairs: Sequence[Pair]) -> np.ndarray:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(json.dumps(list(pairs)) + "\n")
            child.stdin.flush()
            for line in child.stdout:
                if line.startswith("SCORES "):
                    return np.array(json.loads(line.removeprefix("SCORES ")))
            raise RuntimeError(f"{name} ended without an answer; see its output above")

        return score

    return Contestant(name, dtype, make)


CHILD = """
import json, sys
model, device, length = sys.argv[1], sys.argv[2], int(sys.argv[3])
{make}
for line in sys.stdin:
    pairs = json.loads(line)
    print("SCORES", json.dumps([float(s) for s in score(pairs)]), flush=True)
"""
FLAG = CHILD.format(
    make="""
from FlagEmbedding import FlagReranker
reranker = FlagReranker(model, use_fp16=device != "cpu", devices=device, max_length=length)
score = lambda pairs: reranker.compute_score([tuple(p) for p in pairs])
"""
)
INFINITY = CHILD.format(
    make="""
import asyncio, itertools
from infinity_emb import AsyncEmbeddingEngine, EngineArgs
loop = asyncio.new_event_loop()
engine = AsyncEmbeddingEngine.from_args(EngineArgs(model_name_or_path=model, device=device, engine="torch",
    batch_size=32, bettertransformer=False, compile=False, dtype="float32" if device == "cpu" else "float16",
    model_warmup=False))
loop.run_until_complete(engine.astart())
async def rerank(groups):
    return await asyncio.gather(*(engine.rerank(query=q, docs=d, raw_scores=True) for q, d in groups))
def score(pairs):
    groups = [(q, [d for _, d in g]) for q, g in itertools.groupby(pairs, key=lambda p: p[0])]
    answers = loop.run_until_complete(rerank(groups))
    return [r.relevance_score for found, _ in answers for r in sorted(found, key=lambda r: r.index)]
"""
)

BACKEND = CHILD.format(
    make="""
import itertools, os, tempfile, torch
from sentence_transformers import CrossEncoder
threads = int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads())
def load(directory, **more):
    return CrossEncoder(directory, max_length=length, device="cpu", backend={backend!r},
        model_kwargs=dict(options, **more))
{load}
score = lambda pairs: encoder.predict([tuple(p) for p in pairs], batch_size=4, show_progress_bar=False,
    activation_fn=torch.nn.Identity())
"""
)
OPENVINO = """
options = {{"ov_config": {{"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "{hint}"}}}}
encoder = load(model)
"""
CALIBRATED = (
    OPENVINO.format(hint="f32")
    + """
from datasets import Dataset
from optimum.intel import OVConfig, OVQuantizationConfig, OVQuantizer
def calibrate(pairs):
    rows = [dict(encoder.tokenizer(*pair, truncation=True, max_length=length)) for pair in pairs]
    into = tempfile.mkdtemp()
    encoder.tokenizer.save_pretrained(into)
    quantizer = OVQuantizer.from_pretrained(encoder.model)
    quantizer.quantize(Dataset.from_list(rows), save_directory=into,
        ov_config=OVConfig(quantization_config=OVQuantizationConfig(num_samples=len(rows))))
    return load(into)
first = sys.stdin.readline()  # calibrated on the very pairs of the race: nothing suits it better
encoder = calibrate(json.loads(first))
sys.stdin = itertools.chain([first], sys.stdin)
"""
)
ONNX_INT8 = """
import onnxruntime
from sentence_transformers import export_dynamic_quantized_onnx_model
session = onnxruntime.SessionOptions()
session.intra_op_num_threads = threads
options = {"provider": "CPUExecutionProvider", "session_options": session}
encoder = load(model)
with tempfile.TemporaryDirectory() as into:
    encoder.save_pretrained(into)
    export_dynamic_quantized_onnx_model(encoder, "avx512_vnni", into)
    encoder = load(into, file_name="onnx/model_qint8_avx512_vnni.onnx")
"""
BACKENDS = {
    "openvino fp32": ("openvino", OPENVINO.format(hint="f32"), "fp32"),
    "openvino bf16": ("openvino", OPENVINO.format(hint="bf16"), "bf16"),
    "openvino int8": ("openvino", CALIBRATED, "int8"),
    "onnx int8": ("onnx", ONNX_INT8, "int8"),
}
"""sentence-transformers' own, at batch 4, where they are at their best: backend, how it is loaded, dtype."""


def contestants(device: str) -> list[Contestant]:
    """The baseline first: CrossEncoder as people run it, or where it is not installed the engine itself."""
    if device == "cpu":
        theirs = [
            cross_encoder(BASELINE, "fp32", 32),
            cross_encoder("crossencoder fp32 batch 4", "fp32", 4),
            cross_encoder("crossencoder bf16 batch 4", "bf16", 4),
        ]
        found = [ours(dtype) for dtype in ("fp32", "bf16", "int8")]
    else:
        theirs = [
            cross_encoder(BASELINE, "fp16", 32),
            cross_encoder("crossencoder fp16 batch 128", "fp16", 128),
            cross_encoder("crossencoder fp32", "fp32", 32),
        ]
        found = [ours("fp16"), ours("fp16", 128)]
    if find_spec("sentence_transformers"):
        found = [*theirs, *found]
    else:
        print(f"{BASELINE}: left out, sentence_transformers is not installed")
        if device != "cpu":  # a host with a GPU may have torch and its companions only
            found = [plain_transformers(STAND_IN, "fp16", PAIRS), *found]
    for name, program in (("flag", FLAG), ("infinity", INFINITY)):
        python = os.environ.get(f"RERANKQ_BENCH_{name.upper()}_PYTHON")
        if python:
            found.append(elsewhere(name, python, program, "fp32" if device == "cpu" else "fp16"))
    python = os.environ.get("RERANKQ_BENCH_OPENVINO_PYTHON")
    if python and device == "cpu":
        for name, (backend, load, dtype) in BACKENDS.items():
            found.append(elsewhere(name, python, BACKEND.format(backend=backend, load=load), dtype))
    return found
