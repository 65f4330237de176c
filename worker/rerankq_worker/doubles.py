"""Engines that are none: for tests, drills and load figures without a model.

    RERANKQ_ENGINE_FACTORY=rerankq_worker.doubles:noop
    RERANKQ_ENGINE_FACTORY="rerankq_worker.doubles:slow?batch_ms=10&pair_ms=0.3"
    RERANKQ_ENGINE_FACTORY="rerankq_worker.doubles:treacherous?die=666&hang=667"
    RERANKQ_ENGINE_FACTORY="rerankq_worker.doubles:noop?model=another&revision=2"

The logit of a row is minus its length in tokens, so that an order can be checked. Needs no torch.
"""

import ctypes
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rerankq_worker.scoring import EngineBroken, EngineInfo, Logits, TokenIds
from rerankq_worker.settings import WorkerSettings

DIED = 139  # what a shell shows for a segmentation fault, the way real engines die
FOR_EVER_SECONDS = 1e6


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How long a pass takes, what the model is called, and the token ids at which the engine misbehaves."""

    batch_ms: float = 0.0
    pair_ms: float = 0.0
    load_ms: float = 0.0
    model: str = "double"
    revision: object = 0
    die: int | None = None
    hang: int | None = None
    freeze: int | None = None
    """Hang in a C call that never gives the interpreter back, so that no other thread can run either."""
    out_of_memory: int | None = None
    fail: int | None = None
    broken: int | None = None
    nan: int | None = None

    @property
    def is_bad(self) -> bool:
        """Whether any token asks for trouble; looking for one takes as long as a small pass on a GPU."""
        asking = (self.die, self.hang, self.freeze, self.out_of_memory, self.fail, self.broken)
        return any(token is not None for token in asking)


class DoubleEngine:
    """Scores by length, after the time a real engine would take."""

    def __init__(self, settings: WorkerSettings, device: str, behaviour: Behaviour) -> None:
        self.info = EngineInfo(
            model=behaviour.model,
            revision=str(behaviour.revision),
            device=device,
            dtype="none",
            max_length_tokens=settings.max_length_tokens,
            max_batch_pairs=settings.max_batch_pairs,
            max_batch_tokens=settings.max_batch_tokens or 32 * settings.max_length_tokens,
        )
        self._behaviour = behaviour
        self._free_at = 0.0

    def warm_up(self) -> None:
        """Takes as long as loading a model would."""
        time.sleep(self._behaviour.load_ms / 1000)

    def score(self, rows: Sequence[TokenIds]) -> Logits:
        """Minus the length of each row, unless one of its tokens asks for trouble."""
        return self.begin(rows)()

    def begin(self, rows: Sequence[TokenIds]) -> "Computing":
        """The same in its own time, as on a GPU: behind what was begun before, while the caller goes on."""
        milliseconds = self._behaviour.batch_ms + self._behaviour.pair_ms * len(rows)
        self._free_at = max(self._free_at, time.monotonic()) + milliseconds / 1000
        return Computing(self._free_at, lambda: self._logits(rows))

    def _logits(self, rows: Sequence[TokenIds]) -> Logits:
        if self._behaviour.is_bad:
            self._misbehave(np.concatenate(rows))
        logits = np.array([-len(row) for row in rows], dtype=np.float32)
        if self._behaviour.nan is not None:
            logits[[self._behaviour.nan in row for row in rows]] = math.nan
        return logits

    def _misbehave(self, tokens: npt.NDArray[np.int32]) -> None:
        behaviour, present = self._behaviour, set(tokens.tolist())
        if behaviour.die in present:
            os._exit(DIED)
        if behaviour.hang in present:
            time.sleep(FOR_EVER_SECONDS)
        if behaviour.freeze in present:
            ctypes.PyDLL(None).sleep(int(FOR_EVER_SECONDS))
        if behaviour.out_of_memory in present:
            raise MemoryError("a batch of the double does not fit")
        if behaviour.broken in present:
            raise EngineBroken("the double's device is lost")
        if behaviour.fail in present:
            raise RuntimeError("the double was asked to fail")


@dataclass(frozen=True, slots=True)
class Computing:
    """A batch on a double's device."""

    done_at: float
    logits: Callable[[], Logits]

    def wait(self, seconds: float) -> bool:
        """Whether its time is over, after at most so long."""
        left_seconds = self.done_at - time.monotonic()
        if left_seconds > 0 and seconds > 0:
            time.sleep(min(left_seconds, seconds))
        return time.monotonic() >= self.done_at

    def __call__(self) -> Logits:
        """Its scores, once its time is over."""
        self.wait(FOR_EVER_SECONDS)
        return self.logits()


def noop(settings: WorkerSettings, device: str, **called: Any) -> DoubleEngine:
    """Scores at once."""
    return DoubleEngine(settings, device, Behaviour(**called))


def slow(
    settings: WorkerSettings, device: str, batch_ms: float = 10.0, pair_ms: float = 0.3, **more: Any
) -> DoubleEngine:
    """Takes its time, by default about that of a GPU."""
    return DoubleEngine(settings, device, Behaviour(batch_ms, pair_ms, **more))


def treacherous(settings: WorkerSettings, device: str, **behaviour: Any) -> DoubleEngine:
    """Dies, hangs or raises at the token ids of a `Behaviour`."""
    return DoubleEngine(settings, device, Behaviour(**behaviour))
