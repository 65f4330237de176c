"""From a checked model directory to a forward function on a device. Knows files and precisions; scores nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rerankq_worker.engine.attention import choose_attention
from rerankq_worker.engine.errors import first_line
from rerankq_worker.engine.linears import choose_linear
from rerankq_worker.engine.packed_model import PackedModel
from rerankq_worker.engine.precision import Precision
from rerankq_worker.model_files import ModelBroken
from rerankq_worker.tokenizer import TokenIds

Forward = Callable[[Sequence[TokenIds]], Tensor]
"""Rows to fp32 logits [n]; what the engine calls for every batch, and what its tests replace."""


def load_forward(directory: Path, device: torch.device, precision: Precision) -> PackedModel:
    """The model, packed, resident on its device in its precision."""
    source = load_reference(directory)
    make_linear = choose_linear(device, precision.weights, precision.body)
    attention = choose_attention(device, precision.body)
    return PackedModel(source, device, precision, make_linear, attention)


def load_reference(directory: Path) -> nn.Module:
    """transformers' own model in fp32 on the CPU: the definition of the score.

    Always fp32 first: transformers 5 loads a half-precision checkpoint in half by default, and the head needs more.
    """
    # imported here, because it takes seconds and only an engine's start needs it
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # a worker's log is read by people and machines
    try:
        config: Any = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelBroken(f"{directory} does not load: {first_line(error)}; fetch it again") from error
    model, report = loaded
    if report["missing_keys"]:  # transformers would go on with random numbers in their place
        raise ModelBroken(f"{directory} lacks weights: {sorted(report['missing_keys'])[0]}; fetch it again")
    return model.eval()
