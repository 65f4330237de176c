"""What the checks share: the model of a card, its candidates, the sizes tried. Knows the engine's own seams."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from benchmarks.gpu_check.candidates import AddNorm, Candidate, eager_add_norm
from benchmarks.gpu_check.timing import Timing
from rerankq_worker.engine.attention import choose_attention
from rerankq_worker.engine.engine import Engine
from rerankq_worker.engine.graphs import GraphedModel
from rerankq_worker.engine.linears import choose_linear
from rerankq_worker.engine.loading import Forward, Model, in_few_launches
from rerankq_worker.engine.precision import choose_precision
from rerankq_worker.engine.unpadded_model import UnpaddedModel
from rerankq_worker.model.family import XLM_ROBERTA
from rerankq_worker.scoring import EngineInfo
from tests.model_dirs import SHAPES, Shape, randomize_biases, xlmr_config

CPU = torch.device("cpu")
TINY = Shape(hidden=64, layers=3, heads=4, ffn=128, weights_std=0.2)
LENGTHS = [1, 2, 3, 8, 8, 8, 31, 120, 523]  # together a number of tokens to which a CPU adds no fillers
LONGEST = 1024


@dataclass
class Bench:
    """What the checks share, made by the first that needs it."""

    device: torch.device
    tiny: bool
    peak_flops: float = 0.0
    """As the machine's check measures it."""
    add_norm: AddNorm = eager_add_norm
    """The fused one, once it was found right."""

    @property
    def on_card(self) -> bool:
        return self.device.type == "cuda"

    @property
    def body(self) -> torch.dtype:
        return torch.float16 if self.on_card else torch.float32

    @property
    def shape(self) -> Shape:
        return TINY if self.tiny else SHAPES["true-shape"]

    @property
    def vocabulary(self) -> int:
        return 500 if self.tiny else 250_002

    @property
    def timing(self) -> Timing:
        return (
            Timing(self.device, repeats=2, warm=1) if self.tiny else Timing(self.device, repeats=30, warm=5)
        )

    @cached_property
    def source(self) -> torch.nn.Module:
        torch.manual_seed(7)
        model = transformers.XLMRobertaForSequenceClassification(xlmr_config(self.shape, self.vocabulary))
        randomize_biases(model)
        return model.eval()

    @cached_property
    def plain(self) -> UnpaddedModel:
        """The engine's own pass, launch by launch."""
        return self._model(self.device)

    @cached_property
    def model(self) -> Model:
        """The same as it is loaded for this device."""
        return in_few_launches(self.plain, self.device)

    @cached_property
    def exact(self) -> UnpaddedModel:
        """In fp32 on the CPU."""
        return self._model(CPU)

    @cached_property
    def direct(self) -> Candidate:
        return Candidate.of(self.source, self.device, self.body)

    @property
    def fused(self) -> Candidate:
        return self.direct.having(add_norm=self.add_norm)

    @property
    def forwards(self) -> Mapping[str, Forward]:
        candidates = {
            "direct flash": self.direct,
            "+ fused norm": self.fused,
            "+ tanh gelu in the product": self.fused.having(tanh_gelu=True),
        }
        graphs = {f"{name}, graph": self._graphed(each) for name, each in candidates.items()}
        return {"plain": self.plain, "engine": self.model, **candidates, **graphs}

    @property
    def sizes(self) -> Mapping[str, list[int]]:
        if self.tiny:
            return {"3x16": [16] * 3, "40x16": [16] * 40}
        lognormal = np.random.default_rng(1).lognormal(np.log(120), 0.7, 32)
        return {
            "10x128": [128] * 10,
            "32x160": [160] * 32,
            "128x160": [160] * 128,
            "32x512": [512] * 32,
            "lognormal 32": np.clip(lognormal, 8, 1000).astype(int).tolist(),
        }

    @property
    def lengths(self) -> list[int]:
        return LENGTHS if self.tiny else [*LENGTHS, LONGEST]

    def engine(self, pairs: int, tokens: int, memory: torch.device | None = None) -> Engine:
        """Around the model; with memory, the budget is what `warm_up` finds."""
        info = EngineInfo("check", "r", str(self.device), "fp16", LONGEST, pairs, tokens)
        no_texts: Any = None
        return Engine(
            self.model, info, no_texts, self.vocabulary, lambda: self.exact, memory, pads=self.model.pads
        )

    def projections(self, tokens: int) -> tuple[Tensor, ...]:
        """Queries, keys and values as a model hands them over: slices of one projection."""
        heads, head = self.shape.heads, self.shape.hidden // self.shape.heads
        return torch.randn(tokens, 3, heads, head, device=self.device, dtype=self.body).unbind(1)

    def _graphed(self, candidate: Candidate) -> GraphedModel:
        """On a CPU, where there are no graphs, what is recorded is the step itself."""
        return GraphedModel(candidate, self.device, None if self.device.type == "cuda" else lambda step: step)

    def _model(self, device: torch.device) -> UnpaddedModel:
        precision = choose_precision("auto", device)
        return UnpaddedModel(
            copy.deepcopy(self.source),
            XLM_ROBERTA,
            device,
            precision,
            choose_linear(device, precision.weights, precision.body),
            choose_attention(device, precision.body, self.shape.hidden // self.shape.heads),
        )
