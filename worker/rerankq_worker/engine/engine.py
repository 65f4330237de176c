"""Score rows, whatever the device throws at it. Knows batches, memory and broken numbers; not how a model computes.

The life of a batch that does not fit: it is halved, and batches are smaller for a while; a single pair that does not
fit is computed on the CPU with the card's weights. A pair whose logit is not finite is scored again alone in fp32
arithmetic; if that is not finite either, that pair's logit is NaN and its neighbours keep theirs.
"""

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from rerankq_worker.engine.crossing import Coming, to_host
from rerankq_worker.engine.errors import first_line, is_device_lost, is_out_of_memory, lacks_kernels
from rerankq_worker.engine.loading import Forward, load_packed
from rerankq_worker.engine.memory import PROBE_TOKENS, Budget, CudaMemory, Memory, warm_up_rows
from rerankq_worker.engine.planner import plan
from rerankq_worker.engine.precision import choose_device
from rerankq_worker.engine.sentence_transformers_model import load_cross_encoder
from rerankq_worker.model.files import ENGINES, choose_engine, find_model, read_config
from rerankq_worker.model.reading import Reader, Reading, Row
from rerankq_worker.scoring import EngineBroken, EngineError, EngineInfo, Logits, TokenIds

log = logging.getLogger(__name__)

Pair = tuple[str, str]

# of one batch; on CUDA until memory was measured. A CPU is slower with more: caches (docs)
FIRST_TOKENS = 1_024
WINDOW_PAIRS = 2_048  # of score_pairs: sorted and batched together; the next window is tokenized meanwhile
CPU = torch.device("cpu")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, eq=False)
class BegunBatch:
    """A batch that has been begun; call it for its logits, once."""

    _finish: Callable[[], Logits]
    _coming: Coming | None = None

    def wait(self, seconds: float) -> bool:
        """Whether nothing of it is left for the device to do, after at most so long."""
        return self._coming is None or self._coming.wait(seconds)

    def __call__(self) -> Logits:
        """What `score` gives or raises; waits for it."""
        return self._finish()


class Engine:
    """One model on one device. Not for several threads at once: one forward pass at a time."""

    def __init__(
        self,
        forward: Forward,
        info: EngineInfo,
        tokenizer: Reader,
        vocabulary_size: int,
        load_exact: Callable[[], Forward] | None = None,
        memory: Memory | torch.device | None = None,
        *,
        measured: Forward | None = None,
        pads: bool = False,
    ) -> None:
        """`Engine.load` builds one; tests pass a forward function of their own.

        Args:
            forward: rows to logits on the device.
            load_exact: gives the same in fp32 arithmetic, for a row that `forward` cannot do; called at most once.
            memory: what `warm_up` turns into a token budget: a CUDA device's.
            measured: what takes the memory of a batch each time; left out, `forward`.
            pads: whether a batch takes the memory of as many rows of its longest row's length.
        """
        self.info = info
        self.tokenizer = tokenizer
        self._forward = forward
        self._measured = measured or forward
        self._vocabulary_size = vocabulary_size
        self._load_exact = load_exact
        self._exact: Forward | None = None
        self._pads = pads
        self._memory = CudaMemory(memory) if isinstance(memory, torch.device) else memory
        tokens, length = info.max_batch_tokens, info.max_length_tokens
        most_tokens = tokens if memory is None else info.max_batch_pairs * length
        self._budget = Budget(tokens, least_tokens=length, most_tokens=most_tokens)

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        revision: str | None = None,
        engine: str = "auto",
        device: str = "auto",
        dtype: str = "auto",
        max_length_tokens: int = 1024,
        max_batch_pairs: int = 32,
        max_batch_tokens: int | None = None,
        threads: int | None = None,
        offline: bool = False,
    ) -> "Engine":
        """An engine for a model directory, a Hub id or "small".

        Args:
            engine: `packed`, `sentence-transformers`, or with `auto` the first of them that can compute the model.
            max_length_tokens: longer rows are cut; capped at what the model's positions hold (8192 for
                bge-reranker-v2-m3).
            max_batch_tokens: tokens of one forward pass; left out, `warm_up` finds it from free memory.
            threads: CPU threads of one forward pass, for the whole process; left out, torch decides.

        Raises:
            ModelError, EngineError: one line each, with the way out.
        """
        if engine not in ENGINES:
            raise EngineError(f"expected an engine of {', '.join(ENGINES)}, got {engine!r}")
        if threads is not None:
            torch.set_num_threads(threads)
        files, where = find_model(model, revision, offline), choose_device(device)
        chosen = choose_engine(files.path, engine)
        load = load_packed if chosen == "packed" else load_cross_encoder
        loaded = _or_broken(lambda: load(files.path, where, dtype, max_length_tokens))
        name = _or_broken(lambda: _device_name(where)) or str(where)
        if loaded is None:
            raise EngineBroken(
                f"{files.name} does not fit into what is free of {name}; free it, or choose another device"
            )
        length = loaded.max_length_tokens
        info = EngineInfo(
            model=files.name,
            revision=files.revision,
            device=name,
            dtype=loaded.dtype,
            max_length_tokens=length,
            max_batch_pairs=max_batch_pairs,
            max_batch_tokens=_asked_batch_tokens(max_batch_tokens, length),
            engine=chosen,
            family=str(read_config(files.path).get("model_type", "")),
            scale=loaded.scale,
        )
        on_cuda = where.type == "cuda"
        return cls(
            forward=loaded.model,
            info=info,
            tokenizer=loaded.reader,
            vocabulary_size=loaded.vocabulary_size,
            # A CPU computes in fp32, or in bf16 that reaches as far: what is not finite there is so exactly.
            load_exact=(lambda: exact_forward(loaded.model.exactly, where)) if on_cuda else None,
            memory=where if on_cuda and max_batch_tokens is None else None,
            measured=loaded.measured,
            pads=loaded.model.pads,
        )

    def warm_up(self) -> None:
        """Runs the shapes that are to come, and on CUDA finds `info.max_batch_tokens` from free memory.

        Raises:
            EngineBroken: the device is lost.
        """
        length = self.info.max_length_tokens
        self.score(self._warm_up_rows(FIRST_TOKENS, min(length, FIRST_TOKENS)))
        if self._memory is None:
            return
        self._budget.bytes_per_token = self._bytes_per_token(self._memory)
        self._budget.fit(self._free_bytes())
        self._tell_budget()
        # takes the memory now: what does not fit is halved before any job
        self.score(self._warm_up_rows(self._budget.tokens, length))
        log.info("engine: %d tokens fit into one batch on %s", self.info.max_batch_tokens, self.info.device)

    def read(self, reading: Reading) -> list[Row]:
        """The rows of a query and its documents; may be called from any thread.

        Raises:
            Unreadable
        """
        return self.tokenizer.read(reading)

    def score_pairs(self, pairs: Sequence[Pair]) -> Logits:
        """Logits of (query, document) pairs, float32, in the order given, for any number of them.

        A sigmoid makes a logit the 0..1 relevance of the model card. Long documents are cut (docs/engine.md). Equal
        pairs are scored once.
        """
        asked = [(query, document) for query, document in pairs]
        places = {pair: place for place, pair in enumerate(dict.fromkeys(asked))}
        return self._score_distinct(list(places))[[places[pair] for pair in asked]]

    def _score_distinct(self, pairs: Sequence[Pair]) -> Logits:
        logits = np.empty(len(pairs), dtype=np.float32)
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenize") as ahead:
            windows = [slice(i, i + WINDOW_PAIRS) for i in range(0, len(pairs), WINDOW_PAIRS)]
            coming = [ahead.submit(self._tokenize, pairs[window]) for window in windows[:1]]
            for number, window in enumerate(windows):
                rows = coming.pop().result()
                coming = [ahead.submit(self._tokenize, pairs[w]) for w in windows[number + 1 : number + 2]]
                logits[window] = self._score_planned(rows)
        return logits

    def score(self, rows: Sequence[TokenIds]) -> Logits:
        """One logit per row, float32, in row order: one batch, which the caller has planned.

        NaN where a row's logit is not finite even in fp32. A batch that does not fit is halved here.

        Raises:
            ValueError: a row is empty, too long, or holds an id the model has no embedding for.
            EngineBroken: the device is lost; nothing was scored and this process cannot go on.
        """
        return self.begin(rows)()

    def begin(self, rows: Sequence[TokenIds]) -> BegunBatch:
        """Starts one batch and gives the function that waits for its logits.

        On CUDA the device computes while the caller prepares and begins the next batch; on a CPU it is computed here.
        """
        self._check(rows)
        if len(rows) > 1 and self._cost_tokens(rows) > self._budget.tokens:
            return BegunBatch(partial(self._score_planned, rows))
        coming = self._launch(rows)
        return BegunBatch(partial(self._finish, rows, coming), coming)

    def _warm_up_rows(self, total_tokens: int, longest_tokens: int) -> list[TokenIds]:
        """As `warm_up_rows`; of words where the model looks for tokens of a frame."""
        if self.info.engine == "packed":
            return warm_up_rows(total_tokens, longest_tokens)
        reading = Reading(query="a", documents=["a " * longest_tokens], max_tokens_per_doc=longest_tokens)
        row = self.tokenizer.read(reading)[0].token_ids
        return [row] * max(1, total_tokens // len(row))

    def _tokenize(self, pairs: Sequence[Pair]) -> list[TokenIds]:
        rows: list[TokenIds] = []
        for query, group in groupby(pairs, key=itemgetter(0)):
            reading = Reading(query=query, documents=[document for _, document in group])
            rows += [row.token_ids for row in self.tokenizer.read(reading)]
        return rows

    def _score_planned(self, rows: Sequence[TokenIds]) -> Logits:
        logits = np.empty(len(rows), dtype=np.float32)
        begun: list[tuple[list[int], BegunBatch]] = []
        lengths = [len(row) for row in rows]
        for batch in plan(lengths, self.info.max_batch_pairs, self._budget.tokens, pads=self._pads):
            begun.append((batch, self.begin([rows[index] for index in batch])))
            if len(begun) > 1:  # one batch computes while the next is laid out
                done, finish = begun.pop(0)
                logits[done] = finish()
        for done, finish in begun:
            logits[done] = finish()
        return logits

    def _check(self, rows: Sequence[TokenIds]) -> None:
        """On CUDA a position or an id beyond its table would end the process: refused before it gets there."""
        longest = self.info.max_length_tokens
        for index, row in enumerate(rows):
            if not 0 < len(row) <= longest:
                raise ValueError(f"expected row {index} to have 1 to {longest} tokens, got {len(row)}")
        if not rows or self._has_embeddings(np.concatenate(rows)):
            return
        index, row = next((index, row) for index, row in enumerate(rows) if not self._has_embeddings(row))
        raise ValueError(
            f"expected token ids of 0 to {self._vocabulary_size - 1} in row {index}, got {row.min()} to {row.max()}"
        )

    def _has_embeddings(self, ids: TokenIds) -> bool:
        # of the second segment there are complements
        return max(~int(ids.min()), int(ids.max())) < self._vocabulary_size

    def _launch(self, rows: Sequence[TokenIds]) -> Coming | None:
        """The logits, on their way; None where the batch does not fit."""
        return _or_broken(lambda: to_host(self._forward(rows) if rows else torch.empty(0)))

    def _finish(self, rows: Sequence[TokenIds], coming: Coming | None) -> Logits:
        fetched = None if coming is None else _or_broken(coming)
        logits = self._smaller(rows) if fetched is None else fetched.numpy().copy()
        for index in np.flatnonzero(~np.isfinite(logits)).tolist():
            exact = self._score_exactly(rows[index])
            logits[index] = math.nan if exact is None else exact
        self._grow_again()
        return logits

    def _smaller(self, rows: Sequence[TokenIds]) -> Logits:
        """The logits of a batch that did not fit: in halves, or for a single pair on the CPU.

        Raises:
            MemoryError: a single pair fits nowhere.
        """
        if len(rows) == 1:
            logit = self._score_exactly(rows[0])
            if logit is None:
                raise MemoryError(f"a pair of {len(rows[0])} tokens does not fit on {self.info.device}")
            return np.array([logit], dtype=np.float32)
        self._budget.ran_out(self._cost_tokens(rows))
        self._tell_budget()
        middle = len(rows) // 2
        return np.concatenate([self.score(half) for half in (rows[:middle], rows[middle:])])

    def _score_exactly(self, row: TokenIds) -> float | None:
        """In fp32 arithmetic, alone; NaN where that is not finite either, None where there is no way to do it."""
        if self._load_exact is None:
            return None
        exact = self._exact = self._exact or self._load_exact()
        logit = _or_broken(lambda: float(exact([row]).item()))
        return logit if logit is None or math.isfinite(logit) else math.nan

    def _cost_tokens(self, rows: Sequence[TokenIds]) -> int:
        """What a batch takes of the budget."""
        lengths = [len(row) for row in rows]
        return max(lengths) * len(lengths) if self._pads else sum(lengths)

    def _bytes_per_token(self, memory: Memory) -> float:
        """What a probe takes at its peak, halved until it fits; 0 where nothing could be measured."""
        rows = self._warm_up_rows(PROBE_TOKENS, self.info.max_length_tokens)
        while rows:
            growth = _or_broken(lambda rows=rows: memory.growth_bytes(lambda: self._measured(rows).cpu()))
            if growth is not None:
                return growth / self._cost_tokens(rows)
            rows = rows[: len(rows) // 2]
        return 0.0

    def _free_bytes(self) -> int:
        return 0 if self._memory is None else _or_broken(self._memory.free_bytes) or 0

    def _grow_again(self) -> None:
        if self._budget.is_due_to_grow():
            self._budget.grow(self._free_bytes())
            self._tell_budget()

    def _tell_budget(self) -> None:
        before, now = self.info.max_batch_tokens, self._budget.tokens
        if now != before:
            log.log(
                logging.WARNING if now < before else logging.INFO,
                "engine: batches of %d tokens on %s from now on, %d before",
                now,
                self.info.device,
                before,
            )
            self.info = replace(self.info, max_batch_tokens=now)


def exact_forward(
    exactly: Callable[[torch.device, Sequence[TokenIds]], Tensor], device: torch.device
) -> Forward:
    """fp32 arithmetic on the device, or where that lacks the memory on the CPU."""

    def score(rows: Sequence[TokenIds]) -> Tensor:
        logits = _or_broken(lambda: exactly(device, rows).cpu())
        if logits is not None:
            return logits
        log.warning("a pair of %d tokens does not fit on %s and is computed on the CPU", len(rows[0]), device)
        return exactly(CPU, rows)

    return score


def _or_broken(step: Callable[[], _T]) -> _T | None:
    """What the step gives, or None where memory did not suffice.

    Raises:
        EngineBroken: the device is lost.
        EngineError: this torch cannot compute on it.
    """
    try:
        return step()
    except (RuntimeError, MemoryError) as error:
        if lacks_kernels(error):
            raise EngineError(
                f"torch {torch.__version__} was not built for this device ({first_line(error)}); install a build that "
                "was, or use cpu"
            ) from error
        if is_device_lost(error):
            raise EngineBroken(
                f"the device is lost to this process ({first_line(error)}); start a new one"
            ) from error
        if not is_out_of_memory(error):
            raise
        return None


def _asked_batch_tokens(asked: int | None, length: int) -> int:
    if asked is None:
        return max(length, FIRST_TOKENS)
    if asked < length:
        raise EngineError(
            f"expected max_batch_tokens to be at least max_length_tokens ({length}), got {asked}"
        )
    return asked


def _device_name(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    return f"{device} {torch.cuda.get_device_name(device)}"
