"""An engine double that writes down what it scores, so that a test counts what the device did, not what was claimed.

    RERANKQ_ENGINE_FACTORY="tests.witness:engine?pair_ms=5&die=666"   WITNESS_FILE=/some/file

Two lines per row: `b <job> <row>` when it goes onto the device, `s <job> <row>` when its score is there. A job is
told by its query, so give each job a query of its own.
"""

import hashlib
import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rerankq_worker.doubles import Behaviour, Computing, DoubleEngine
from rerankq_worker.model.files import ModelBroken
from rerankq_worker.model.reading import Reading
from rerankq_worker.model.small import materialise
from rerankq_worker.model.tokenizer import PairTokenizer
from rerankq_worker.scoring import Logits, TokenIds
from rerankq_worker.settings import WorkerSettings

END_OF_QUERY = 2  # `</s>`


class Witness(DoubleEngine):
    """A double under oath."""

    def __init__(self, settings: WorkerSettings, device: str, behaviour: Behaviour) -> None:
        super().__init__(settings, device, behaviour)
        self._ledger = open_ledger()

    def begin(self, rows: Sequence[TokenIds]) -> Computing:
        self._note("b", rows)
        return super().begin(rows)

    def _logits(self, rows: Sequence[TokenIds]) -> Logits:
        logits = super()._logits(rows)
        self._note("s", rows)
        return logits

    def _note(self, what: str, rows: Sequence[TokenIds]) -> None:
        note(self._ledger, what, rows)


def engine(settings: WorkerSettings, device: str, **behaviour: Any) -> Witness:
    """The factory; takes the words of a `Behaviour`."""
    return Witness(settings, device, Behaviour(**behaviour))


def of_written_revision(settings: WorkerSettings, device: str) -> DoubleEngine:
    """In an engine's place: one of the revision that stands in `WITNESS_FILE` when it starts."""
    revision = Path(os.environ["WITNESS_FILE"]).read_text()
    return DoubleEngine(settings, device, Behaviour(revision=revision))


def open_ledger() -> int:
    """A descriptor of the file in `WITNESS_FILE`; several processes may append to it."""
    return os.open(os.environ["WITNESS_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(ledger: int, what: str, rows: Sequence[TokenIds]) -> None:
    """Write a line for each row in one go, so that lines of two processes do not mix."""
    lines = [f"{what} {query_name(row)} {row_name(row)}\n" for row in rows]
    os.write(ledger, "".join(lines).encode())


def query_name(row: TokenIds) -> str:
    """What a row's query is called in the ledger."""
    ends = np.flatnonzero(row == END_OF_QUERY)
    return row_name(row[: ends[0]])


def row_name(row: TokenIds) -> str:
    return hashlib.blake2b(np.ascontiguousarray(row, dtype="<i4").tobytes(), digest_size=6).hexdigest()


@dataclass(slots=True)
class Testimony:
    """What the device did with each job, by its query's name."""

    begun: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    scored: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])

    def rows_scored(self, query: str) -> int:
        """Scores made for a job, the same row twice counting twice."""
        return sum(self.scored.get(_name_of(query), Counter()).values())

    def most_often_begun(self, query: str) -> int:
        """How often the row of a job that went onto the device most often did so."""
        return max(self.begun.get(_name_of(query), Counter({"": 0})).values())

    def most_often_scored(self, query: str) -> int:
        """How often the row of a job that was scored most often was."""
        return max(self.scored.get(_name_of(query), Counter({"": 0})).values())


def dies_at_load(*_: object) -> None:
    """In an engine's place: one that the system ends before it has told anything, as for want of memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def refuses_its_model(*_: object) -> None:
    """In an engine's place: one that finds what is wrong with the model only while it loads it."""
    raise ModelBroken("the weights hold tensors for which the model of config.json has no place")


def testimony(ledger: Path) -> Testimony:
    """All that the witnesses have written into a ledger."""
    told = Testimony()
    lines = ledger.read_text().splitlines() if ledger.exists() else []
    for what, query, row in (line.split() for line in lines if line.count(" ") == 2):
        book = told.begun if what == "b" else told.scored
        book.setdefault(query, Counter())[row] += 1
    return told


def token_of(word: str) -> int:
    """A token id that is in texts with this word and hardly elsewhere: the poison of a double."""
    row = _tokenizer().read(Reading(query="a", documents=[word]))[0].token_ids
    plain = set(_tokenizer().read(Reading(query="a", documents=["a"]))[0].token_ids.tolist())
    return max(set(row.tolist()) - plain)


_loaded: list[PairTokenizer] = []


def _tokenizer() -> PairTokenizer:
    if not _loaded:
        _loaded.append(PairTokenizer.from_model_dir(materialise(), 1024))
    return _loaded[0]


def _name_of(query: str) -> str:
    return query_name(_tokenizer().read(Reading(query=query, documents=["a"]))[0].token_ids)
