"""What an engine is: rows of token ids in, a logit each out. Said once, for all sides of the socket; without torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

TokenIds = npt.NDArray[np.int32]
"""A row: token ids, special tokens included; one of a second segment (BERT's token type 1) as its complement, `~id`."""
Logits = npt.NDArray[np.float32]


class EngineError(Exception):
    """The engine cannot do what was asked."""


class EngineBroken(EngineError):
    """The device stopped working for this process (an assert, an illegal access, a fallen-off bus).

    CUDA keeps such an error for the life of the process: every later call fails too. End the process.
    """


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What is loaded, where, and what fits: part of every ranking."""

    model: str
    revision: str
    device: str
    dtype: str
    max_length_tokens: int
    max_batch_pairs: int
    max_batch_tokens: int
    engine: str = "packed"
    """Or `sentence-transformers`: then whoever asks sends texts, and has them read into rows by the engine."""
    family: str = ""
    """`model_type` of config.json."""
    scale: str = "sigmoid"
    """How a logit becomes a `relevance_score`: a name of `model/scales.py`."""


class Begun(Protocol):
    """A batch that an engine has begun; its device goes through them in the order of their beginning."""

    def wait(self, seconds: float) -> bool:
        """Whether nothing of it is left for the device to do, after at most so long."""
        ...

    def __call__(self) -> Logits:
        """What `score` gives or raises; waits for it."""
        ...


class ScoringEngine(Protocol):
    """What a factory gives (`RERANKQ_ENGINE_FACTORY`).

    An engine whose device computes while the caller goes on may have a method `begin(rows) -> Begun` besides. It is
    called in place of `score`, at times while the batch before is still on the device, so that this has no pause.
    """

    @property
    def info(self) -> EngineInfo:
        """What it holds; `max_batch_tokens` shrinks when memory runs out, and may grow again."""
        ...

    def warm_up(self) -> None:
        """Make the first pass as quick as the others."""
        ...

    def score(self, rows: Sequence[TokenIds]) -> Logits:
        """One float32 logit per row of one batch; NaN where there is none.

        Raises:
            EngineBroken: the device is lost to this process.
        """
        ...
