"""From a checked model directory to a forward function on a device. Knows files and precisions; scores nothing."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rerankq_worker.engine.attention import Attention, choose_attention
from rerankq_worker.engine.calibration import CalibratedLinears
from rerankq_worker.engine.errors import first_line, is_out_of_memory
from rerankq_worker.engine.graphs import GraphedModel
from rerankq_worker.engine.linears import MakeLinear, choose_linear
from rerankq_worker.engine.modernbert_model import ModernBertModel
from rerankq_worker.engine.packed_model import PackedModel
from rerankq_worker.engine.precision import Precision, choose_precision
from rerankq_worker.engine.renamed_weights import renamed_weights
from rerankq_worker.engine.unfit_weights import Architecture, refuse_unfit
from rerankq_worker.engine.unpadded_model import UnpaddedModel
from rerankq_worker.model.family import Family
from rerankq_worker.model.files import (
    CALIBRATION,
    ModelBroken,
    family_of,
    labels_of,
    read_config,
    reading,
    scale_of,
)
from rerankq_worker.model.frame import READ_AS_IT_IS
from rerankq_worker.model.reading import Reader, Reading
from rerankq_worker.model.tokenizer import PairTokenizer
from rerankq_worker.scoring import TokenIds

Forward = Callable[[Sequence[TokenIds]], Tensor]
"""Rows to fp32 logits [n]; what the engine calls for every batch, and what its tests replace."""


class Model(Protocol):
    """A model resident on its device, packed or not."""

    @property
    def pads(self) -> bool:
        """Whether a batch takes the memory of rows that are all as long as its longest."""
        ...

    def __call__(self, rows: Sequence[TokenIds]) -> Tensor:
        """Logits, fp32, [n]; on CUDA they may not have been computed yet when this returns."""
        ...

    def exactly(self, device: torch.device, rows: Sequence[TokenIds]) -> Tensor:
        """The same in fp32 arithmetic, on the device or on the CPU."""
        ...


class BuildPacked(Protocol):
    """Takes the weights of `source`, transformers' own model in fp32 on the CPU, and empties it."""

    def __call__(
        self,
        source: nn.Module,
        family: Family,
        device: torch.device,
        precision: Precision,
        make_linear: MakeLinear,
        attention: Attention,
    ) -> PackedModel: ...


FORWARDS: Mapping[str, BuildPacked] = {"bert": UnpaddedModel, "modernbert": ModernBertModel}
"""What computes a family, by the name that its record gives as `forward`."""

PROBES = (
    "Émile's NAÏVE e\u0301tude, 3.14 <b>x_y</b>",
    "ＰＡＮＤＡ ｶﾞ ① ﬁne",
    "  two  blanks\ta tab\n a line \u00a0\u3000\u200bwide ",
    "大熊猫是熊科动物。什么？ パンダ 한국어",
    "Большая مرحبا שלום 😀",
)
"""Texts that tell normalizers and pre-tokenizers apart: case, width, accents, ligatures, blanks, scripts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model as an engine needs it."""

    model: Model
    reader: Reader
    max_length_tokens: int
    vocabulary_size: int
    """The rows of its table of words: no id is beyond."""
    dtype: str
    scale: str
    """How a logit becomes a relevance score."""
    measured: Forward | None = None
    """What shows the memory that a batch takes; left out, the model."""


def load_packed(directory: Path, device: torch.device, dtype: str, max_length_tokens: int) -> Loaded:
    """A model that the packed engine knows.

    Raises:
        ModelBroken, PrecisionRefused
    """
    precision, config = choose_precision(dtype, device), read_config(directory)
    # refuses sooner than the weights
    tokenizer = PairTokenizer.from_model_dir(directory, max_length_tokens)
    refuse_other_rows(directory, tokenizer)
    scale = scale_of(directory)
    model = load_forward(directory, device, precision)
    return Loaded(
        model=in_few_launches(model, device),
        reader=tokenizer,
        max_length_tokens=tokenizer.max_length_tokens,
        vocabulary_size=int(config["vocab_size"]),
        dtype=precision.name,
        scale=scale,
        measured=model,  # a recorded pass has taken its memory before
    )


def in_few_launches(model: PackedModel, device: torch.device) -> Model:
    """The model as it is on a CPU; on a card that needs no padding with its passes recorded."""
    return GraphedModel(model, device) if device.type == "cuda" and not model.pads else model


def load_forward(
    directory: Path, device: torch.device, precision: Precision, make_linear: MakeLinear | None = None
) -> PackedModel:
    """The model, batch, resident on its device in its precision; its linear layers as `make_linear` makes them."""
    source: Any = load_reference(directory)
    head = source.config.hidden_size // source.config.num_attention_heads
    if make_linear is None and precision.weights is torch.int8 and (directory / CALIBRATION).is_file():
        make_linear = CalibratedLinears(directory)
    make_linear = make_linear or choose_linear(device, precision.weights, precision.body)
    attention = choose_attention(device, precision.body, head)
    family = family_of(directory)
    return FORWARDS[family.forward](source, family, device, precision, make_linear, attention)


def load_reference(directory: Path) -> nn.Module:
    """transformers' own model in fp32 on the CPU: the definition of the score.

    Always fp32 first: transformers 5 loads a half-precision checkpoint in half by default, and the head needs more.

    Raises:
        ModelBroken: it does not load, or not as the whole that config.json says.
    """
    # imported here, because it takes seconds and only an engine's start needs it
    import transformers

    quiet_transformers()
    with reading(directory), memory_apart():
        config: Any = transformers.AutoConfig.from_pretrained(
            directory,
            trust_remote_code=False,
            local_files_only=True,
            attn_implementation="eager",  # whichever it was trained with: attention is ours
        )
        config.num_labels = labels_of(directory, family_of(directory))
        renamed = renamed_weights(directory)
        kind: Any = transformers.AutoModelForSequenceClassification
        if renamed is not None:  # which that does not take
            kind = getattr(transformers, family_of(directory).architecture)
        loaded: Any = kind.from_pretrained(
            directory if renamed is None else None,
            state_dict=renamed,
            config=config,
            dtype=torch.float32,
            attn_implementation="eager",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
        )
        model, report = loaded
        refuse_unfit(
            *(directory, report["missing_keys"], report["unexpected_keys"], report["mismatched_keys"]),
            Architecture.of_family(family_of(directory)),
        )
        refuse_broken_numbers(directory, model)
    return model.eval()


def refuse_other_rows(directory: Path, tokenizer: PairTokenizer) -> None:
    """Keep a directory out of service that transformers, and so CrossEncoder, reads into other rows than we do.

    Ours is tokenizer.json in the frame that `frame_of` found. transformers 5 builds most classes anew instead, without
    the file's normalizer and pre-tokenizer; which of the two the model was trained with, the files do not tell.

    Raises:
        ModelBroken: the rows of `PROBES` differ, or transformers cannot read the tokenizer.
    """
    from transformers import AutoTokenizer

    quiet_transformers()
    with reading(directory):
        theirs: Any = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
        expected = [_row(theirs("a", text, padding=False), family_of(directory)) for text in PROBES]
    rows = [row.token_ids.tolist() for row in tokenizer.read(Reading(query="a", documents=PROBES))]
    length = tokenizer.max_length_tokens  # longer ones are cut here
    if any(row != ids for row, ids in zip(rows, expected, strict=True) if len(ids) <= length):
        raise ModelBroken(
            f"{directory}: {type(theirs).__name__}, as transformers makes it, reads a pair otherwise than "
            "tokenizer.json says; if the model was trained with that as it is (transformers 4), say "
            f'"tokenizer_class": "{READ_AS_IT_IS[0]}" in tokenizer_config.json, else save what transformers makes: '
            'python -c "from transformers import AutoTokenizer as T; '
            f"T.from_pretrained('{directory}').save_pretrained('{directory}')\""
        )


def _row(encoded: Any, family: Family) -> list[int]:
    """What transformers made of a pair, as a row is held here."""
    ids: list[int] = encoded["input_ids"]
    segments = encoded.get("token_type_ids") if family.segments > 1 else None
    return [
        ~index if segment else index for index, segment in zip(ids, segments or [0] * len(ids), strict=True)
    ]


def quiet_transformers() -> None:
    """Have transformers say nothing while it loads."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # a worker's log is read by people and machines
    transformers_logging.set_verbosity(CRITICAL)  # what it tells in a table of many lines is said in one


@contextmanager
def memory_apart() -> Generator[None]:
    """torch says "out of memory" in many ways; the files are not to blame for any of them."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError(first_line(error)) from error
        raise


def refuse_broken_numbers(directory: Path, model: nn.Module) -> None:
    """
    Raises:
        ModelBroken: a weight is NaN or infinite.
    """
    for name, tensor in model.named_parameters():
        # the sum first: it needs no second tensor, and no whole one overflows it
        if not torch.isfinite(tensor.data.sum()) and not torch.isfinite(tensor.data).all():
            raise ModelBroken(
                f"{directory}: {name} holds what is no number (NaN or infinite), as a training that went wrong "
                "leaves behind; serve an earlier checkpoint"
            )
