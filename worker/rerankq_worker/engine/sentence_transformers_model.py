"""Any model that sentence-transformers' CrossEncoder loads without remote code, computed by its own modules.

What is ours is around it: the files are refused that it would serve random numbers for, rows are read so that no text
forges a special token, and batches are the engine's. Knows no batches that do not fit.
"""

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rerankq_worker.engine.crossing import to_device
from rerankq_worker.engine.errors import PrecisionRefused
from rerankq_worker.engine.loading import (
    PROBES,
    Loaded,
    memory_apart,
    quiet_transformers,
    refuse_broken_numbers,
)
from rerankq_worker.engine.precision import DTYPES
from rerankq_worker.engine.sentence_transformers_reader import TemplateReader, read_by
from rerankq_worker.engine.unfit_weights import Architecture, refuse_unfit
from rerankq_worker.model.files import NO_AND_YES, ModelBroken, read_config, reading, scale_called
from rerankq_worker.model.reading import Reader, Reading
from rerankq_worker.scoring import EngineError, TokenIds

log = logging.getLogger(__name__)

HELD = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CPU = torch.device("cpu")
NEIGHBOURS: Sequence[Callable[[int, TokenIds], object]] = (
    lambda _index, _row: None,
    lambda _index, row: len(row),
    lambda index, _row: index,
)
"""What rows must have in common to be computed together: nothing, their length so that none is padded, themselves."""
LONG_PROBE = 8
ROUNDING = {"fp32": 1e-4, "fp16": 0.05, "bf16": 0.1}
"""By how much a logit may move for its neighbours, of the greatest that it is among or of 1."""


def load_cross_encoder(directory: Path, device: torch.device, dtype: str, max_length_tokens: int) -> Loaded:
    """A model that CrossEncoder knows.

    Raises:
        ModelBroken, EngineError
    """
    held_in = choose_dtype(dtype, device, directory)
    model = CrossEncoderModel(directory, device, held_in)
    reader, length = model.reader(max_length_tokens)
    return Loaded(
        model=model,
        reader=reader,
        max_length_tokens=length,
        vocabulary_size=model.vocabulary_size,
        dtype=held_in,
        scale=model.scale,
    )


class CrossEncoderModel:
    """Rows in, one fp32 logit per row out, on the model's device."""

    pads = True

    def __init__(self, directory: Path, device: torch.device, dtype: str) -> None:
        """
        Args:
            directory: checked files of a model.
            dtype: `fp32`, `fp16` or `bf16`.

        Raises:
            ModelBroken: it does not load, or not as the whole that its files say.
        """
        self._directory = directory
        self._device = device
        self._cross_encoder = _load(directory, device, HELD[dtype])
        first = self._cross_encoder[0]
        tokenizer: Any = self._cross_encoder.tokenizer
        _give_padding(directory, tokenizer)
        self._pad = (int(tokenizer.pad_token_id), int(tokenizer.pad_token_type_id))
        self._pads_left = tokenizer.padding_side == "left"
        self._neighbours, self._rounding = NEIGHBOURS[0], ROUNDING[dtype]
        self._reads_types = "token_type_ids" in tokenizer.model_input_names
        self._constants: dict[str, Any] = {
            "modality": "message" if "message" in first.modality_config else "text"
        }
        if first.transformer_task == "text-generation":
            self._constants["logits_to_keep"] = 1

    @property
    def scale(self) -> str:
        """How CrossEncoder makes a score of a logit; of two labels the softmax, which is their difference's sigmoid."""
        if self._cross_encoder.num_labels == NO_AND_YES:
            return "sigmoid"
        return scale_called(self._directory, type(self._cross_encoder.activation_fn).__name__)

    @property
    def vocabulary_size(self) -> int:
        """The rows of its table of words."""
        return int(self._cross_encoder.transformers_model.get_input_embeddings().weight.shape[0])

    def reader(self, max_length_tokens: int) -> tuple[Reader, int]:
        """What reads for this model, rows of at most so many tokens, and that many where the model can less.

        Raises:
            ModelBroken: its rows would not be CrossEncoder's.
            EngineError: the length leaves no room for texts.
        """
        with reading(self._directory):
            reader = read_by(self._directory, self._cross_encoder, max_length_tokens)
        if isinstance(reader, TemplateReader):
            reader.refuse_short()
        with reading(self._directory), memory_apart():
            rows = [row.token_ids for row in reader.read(Reading(query=PROBES[0], documents=PROBES))]
            if max(map(len, rows)) < reader.max_length_tokens:
                self._refuse_other_features(rows)
            if self(rows[:1]).shape != (1,):
                raise ModelBroken(f"{self._directory}: CrossEncoder gives more than a score for each pair")
            self._choose_neighbours(reader)
        return reader, reader.max_length_tokens

    def _choose_neighbours(self, reader: Reader) -> None:
        """As many rows in one forward pass as leave each other's scores alone."""
        documents = ["", "", " ".join(PROBES * LONG_PROBE)]
        rows = [row.token_ids for row in reader.read(Reading(query=PROBES[0], documents=documents))]
        alone = torch.cat([self(rows[index : index + 1]) for index in range(len(rows))])
        for neighbours in NEIGHBOURS:
            self._neighbours = neighbours
            if self._agrees(rows, alone):
                break
        if self._neighbours is not NEIGHBOURS[0]:
            log.warning(
                "%s: scores of this model depend on padding, so it computes %s: slower than one that knows padding",
                self._directory.name,
                "rows of one length at a time" if self._neighbours is NEIGHBOURS[1] else "each row alone",
            )

    def _agrees(self, rows: Sequence[TokenIds], alone: Tensor) -> bool:
        apart = self._rounding * max(1.0, float(alone.abs().max()))
        try:
            return bool((self(rows) - alone).abs().max() <= apart)
        except (ValueError, IndexError):  # as transformers' heads where config.json names no padding token
            return False

    def _refuse_other_features(self, rows: Sequence[TokenIds]) -> None:
        prompts, default = self._cross_encoder.prompts, self._cross_encoder.default_prompt_name
        pairs = [(PROBES[0], document) for document in PROBES]
        theirs: dict[str, Any] = self._cross_encoder.preprocess(pairs, prompt=prompts.get(default))
        expected = {name: tensor for name, tensor in theirs.items() if isinstance(tensor, Tensor)}
        ours = self.features(rows)
        other = [name for name in expected | ours if not _equal(expected.get(name), ours.get(name))]
        if other:
            raise ModelBroken(
                f"{self._directory}: CrossEncoder reads text otherwise than is known here ({other[0]} differs), so its "
                "scores would not be met; report the model, please"
            )

    @torch.inference_mode()
    def __call__(self, rows: Sequence[TokenIds]) -> Tensor:
        """Logits, fp32, [n]; on CUDA they may not have been computed yet when this returns."""
        together: dict[object, list[int]] = {}
        for index, row in enumerate(rows):
            together.setdefault(self._neighbours(index, row), []).append(index)
        logits = [self._score([rows[index] for index in indices]) for indices in together.values()]
        if len(logits) == 1:
            return logits[0]
        order = np.argsort(np.concatenate(list(together.values())))
        return torch.cat(logits)[to_device(order, self._device)]

    def _score(self, rows: Sequence[TokenIds]) -> Tensor:
        features = {name: to_device(array, self._device) for name, array in self._padded(rows).items()}
        scores: Tensor = self._cross_encoder({**features, **self._constants})["scores"].float()
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == NO_AND_YES else scores.squeeze(1)

    def exactly(self, device: torch.device, rows: Sequence[TokenIds]) -> Tensor:
        """The same in fp32, on the CPU whatever the device: by the model loaded once more."""
        del device
        if self._exact is None:
            log.warning(
                "the model is loaded in fp32 on the CPU, for a pair that the device could not compute"
            )
            self._exact = CrossEncoderModel(self._directory, CPU, "fp32")
        return self._exact(rows)

    _exact: "CrossEncoderModel | None" = None

    def features(self, rows: Sequence[TokenIds]) -> dict[str, Tensor]:
        """The rows padded to the longest, as CrossEncoder's own preprocessing gives them; [n, length] each."""
        return {name: torch.from_numpy(array) for name, array in self._padded(rows).items()}

    def _padded(self, rows: Sequence[TokenIds]) -> dict[str, np.ndarray[Any, Any]]:
        shape = len(rows), max(map(len, rows))
        ids, types, mask = (np.full(shape, fill, dtype=np.int64) for fill in (*self._pad, 0))
        for index, row in enumerate(rows):
            place = slice(shape[1] - len(row), None) if self._pads_left else slice(len(row))
            ids[index, place] = np.where(row < 0, ~row, row)
            types[index, place] = row < 0
            mask[index, place] = 1
        return {"input_ids": ids, "attention_mask": mask} | (
            {"token_type_ids": types} if self._reads_types else {}
        )


def choose_dtype(dtype: str, device: torch.device, directory: Path) -> str:
    """The precision that was asked for; with `auto` fp32 on the CPU, on CUDA fp16, or bf16 for a model saved in it.

    A model saved in bf16 may have numbers that fp16 does not reach, as Gemma's do.
    """
    if dtype not in DTYPES:
        raise PrecisionRefused(f"expected a dtype of {', '.join(DTYPES)}, got {dtype!r}")
    if dtype == "int8":
        raise PrecisionRefused("int8 is not offered by the sentence-transformers engine; use bf16 or fp32")
    if dtype != "auto":
        return dtype
    if device.type == "cpu":
        return "fp32"
    config = read_config(directory)
    return "bf16" if "bfloat16" in (config.get("dtype"), config.get("torch_dtype")) else "fp16"


def _load(directory: Path, device: torch.device, dtype: torch.dtype) -> Any:
    _refuse_remote_code(directory)
    quiet_transformers()
    with reading(directory), memory_apart(), _loading_reports() as reports:
        cross_encoder: Any = _cross_encoder_class()(
            str(directory),
            device=str(device),
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={
                "dtype": dtype,
                "use_safetensors": True,
                "ignore_mismatched_sizes": True,  # refused below, by name
            },
        )
        architecture = Architecture.of_model(cross_encoder.transformers_model)
        for report in reports:
            refuse_unfit(
                directory,
                report["missing_keys"],
                report["unexpected_keys"],
                report["mismatched_keys"],
                architecture,
            )
        refuse_broken_numbers(directory, cross_encoder)
        _refuse_heads(directory, cross_encoder)
    return cross_encoder.eval()


def _give_padding(directory: Path, tokenizer: Any) -> None:
    """Where it has none, any token will do that no text has: it is masked, or rows are not padded."""
    if tokenizer.pad_token_id is not None:
        return
    special = tokenizer.all_special_tokens
    if not special:
        raise ModelBroken(
            f"{directory}: its tokenizer has no token for padding; name one as pad_token in tokenizer_config.json"
        )
    tokenizer.pad_token = tokenizer.eos_token or special[0]


def _cross_encoder_class() -> Any:
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise EngineError(
            f"this model needs sentence-transformers, which cannot be imported ({error}); "
            "pip install 'sentence-transformers>=6.2,<7'"
        ) from error
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    return CrossEncoder


def _refuse_remote_code(directory: Path) -> None:
    from transformers import CONFIG_MAPPING

    config = read_config(directory)
    if config.get("auto_map") and config.get("model_type") not in CONFIG_MAPPING:
        raise ModelBroken(
            f"{directory} is computed by code of its own (auto_map in config.json), and what comes with a model is "
            "never run here; give a model of an architecture that transformers has"
        )


@contextmanager
def _loading_reports() -> Generator[list[dict[str, Any]]]:
    """What transformers reports of each model that is loaded meanwhile; CrossEncoder does not hand it out."""
    from transformers import PreTrainedModel

    reports: list[dict[str, Any]] = []
    theirs: Any = PreTrainedModel.__dict__["from_pretrained"]
    load: Callable[..., Any] = theirs.__func__

    def noting(cls: Any, *arguments: Any, **options: Any) -> Any:
        model, report = load(cls, *arguments, **{**options, "output_loading_info": True})
        reports.append(report)
        return model

    PreTrainedModel.from_pretrained = classmethod(noting)  # type: ignore[method-assign, assignment] - as long as it loads
    try:
        yield reports
    finally:
        PreTrainedModel.from_pretrained = theirs


def _refuse_heads(directory: Path, cross_encoder: Any) -> None:
    """Heads that give no score, or the same for everything."""
    labels = cross_encoder.num_labels
    if labels not in (1, NO_AND_YES):
        raise ModelBroken(
            f"expected a reranker with 1 or 2 labels, got {labels} in {directory}; give another model"
        )
    asks = list(cross_encoder)[-1]
    if hasattr(asks, "true_token_id") and asks.true_token_id == asks.false_token_id:
        raise ModelBroken(
            f"{directory}: its tokenizer has no tokens 'yes' and 'no' for a score to be made of; name the tokens in a "
            "LogitScore module of sentence-transformers (modules.json)"
        )


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)
