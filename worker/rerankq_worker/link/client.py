"""Ask the engine of this device for scores, and for rows where it reads texts itself, and outlive it.

The life of a job whose engine dies: what has been scored is kept; the rest is asked again of the next engine. Rows
that were on the device at the death are suspects and go alone, so that an innocent neighbour is never blamed; when
the engine dies under them again, the job is convicted.

A connection outlives its job, and serves the next one as long as there is nothing to hear on it: between two jobs an
engine has nothing to say but that it leaves. What a job leaves unfinished ends with its connection.

Knows a socket; no torch, no Celery.
"""

import contextlib
import math
import os
import select
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rerankq.contract.messages import Lane
from rerankq_worker.link import frames
from rerankq_worker.link.frames import (
    BadFrame,
    Failed,
    Hello,
    Leaving,
    NotRead,
    RowsRead,
    RowsToScore,
    Running,
    Scores,
    TextsToRead,
)
from rerankq_worker.model.reading import DocumentTooLong, Reading, Row
from rerankq_worker.scoring import EngineInfo, Logits, TokenIds

TICK_SECONDS = 0.25  # how long a caller may have to wait for a look at its clock
FIRST_TICK_SECONDS = 0.05  # and for its first one: a job that takes longer is worth a word on how it is
RETRY_SECONDS = 0.05
DEATHS_WHILE_READING = 3  # of one job's texts: the engine may have died of another's rows

EngineConnection: TypeAlias = "Connection[Any, Any]"  # subscriptable for type checkers only
_LOST = (EOFError, OSError)


class EngineTrouble(Exception):
    """No scores came from the engine."""


class EngineAway(EngineTrouble):
    """There was no engine, or none came back in time; another attempt may find one."""


class EngineChanged(EngineTrouble):
    """The engine was started anew with another model, or another revision of it: rows for the one before are none."""


class EngineRefused(EngineTrouble):
    """The engine could not score this job alone; it serves others."""


class EngineKilledTwice(EngineTrouble):
    """The engine died under rows of this job twice, the second time while it ran them alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Logits that have just come, of these rows of the job; empty: nothing new, have a look at your clock."""

    indices: npt.NDArray[np.int64]
    logits: Logits


NOTHING_YET = Scored(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class _Line:
    """A connection to an engine that has said who it is."""

    connection: EngineConnection
    hello: Hello
    has_served: bool = False
    """A job before this one."""
    _ears: select.poll = field(default_factory=select.poll)

    def __post_init__(self) -> None:
        self._ears.register(self.connection.fileno(), select.POLLIN)

    def is_quiet(self, seconds: float) -> bool:
        """Whether there is nothing to hear on it for so long: no word, and no end.

        `Connection.poll` makes a selector each time, which takes more time than all else that is done to listen.
        """
        return not self._ears.poll(seconds * 1000)


class EngineClient:
    """Scores from the engine behind a socket. Keeps a connection for each thread that asks, and none over a fork."""

    def __init__(self, socket_path: Path, wait_seconds: float) -> None:
        """
        Args:
            wait_seconds: how long an engine may be away (dead, or loading) before `EngineAway`.
        """
        self._socket_path = socket_path
        self._wait_seconds = wait_seconds
        self._described: EngineInfo | None = None
        self._kept: list[_Line] = []
        self._kept_by = os.getpid()
        self.watch: Callable[[], object] = lambda: None
        """Called for each frame of texts, and every 0.25 s while one is waited for; what it raises ends the reading."""

    def describe(self) -> EngineInfo:
        """What the engine holds; waits for one.

        Raises:
            EngineAway: there is none.
        """
        line = _last_word_of(self._line())
        with self._lent(line):
            self._described = line.hello.description
        return self._described

    def read(self, reading: Reading) -> list[Row]:
        """The rows of a reading, by an engine that reads texts itself: it is a `Reader`.

        Raises:
            Unreadable
            EngineAway: there is no engine.
            EngineRefused: the engine could not read these texts, or died of them time and again.
        """
        rows: list[Row] = []
        too_long: list[int] = []
        limit = 0
        for first, texts in frames.texts_of(reading):
            try:
                rows += [replace(row, document=row.document + first) for row in self._read(texts)]
            except DocumentTooLong as error:
                too_long += [index + first for index in error.indices]
                limit = error.limit
        if too_long:
            raise DocumentTooLong(too_long, limit)
        return rows

    def _read(self, texts: TextsToRead) -> Sequence[Row]:
        boots: set[str] = set()
        data = frames.encode(texts)
        if len(data) > frames.MAX_FRAME_BYTES:
            raise EngineRefused(f"a text of {len(data)} bytes is more than the engine reads at once")
        self.watch()
        while len(boots) < DEATHS_WHILE_READING:
            line = _last_word_of(self._line(), self.watch)
            with contextlib.suppress(*_LOST), self._lent(line):
                line.connection.send_bytes(data)
                while line.is_quiet(TICK_SECONDS):
                    self.watch()
                return _rows_in(frames.decode(line.connection.recv_bytes(frames.MAX_ROWS_READ_BYTES)))
            boots.add(line.hello.boot)
        raise EngineRefused(f"the engine died {DEATHS_WHILE_READING} times while it read these texts")

    def scores(
        self,
        rows: Sequence[TokenIds],
        *,
        job_id: str,
        lane: Lane,
        more: Iterable[Sequence[TokenIds]] = (),
    ) -> Generator[Scored]:
        """Logits as the batches finish, every row once; at least every 0.25 s something, be it empty.

        Closing the iterator calls the rest off.

        Args:
            more: further rows, counted on from the first; each lot is taken once those before are on their way.

        Raises:
            EngineAway, EngineRefused, EngineKilledTwice: what was yielded before stays true.
            EngineChanged: it does not; the engine is no more the one that was described.
        """
        asked = _AskedRows(job_id, lane, list(rows), _apart(more))
        boot = None
        while not asked.is_done:
            line = yield from self._line()
            with contextlib.suppress(*_LOST), self._lent(line):
                if self._described and _model_of(self._described) != _model_of(line.hello.description):
                    raise EngineChanged("the engine holds another model by now")
                if line.hello.boot != boot:
                    asked.blame_rows_on_device()
                boot = line.hello.boot
                # Whoever serves a second job was not greeted for it: an engine that is frozen is told by its silence.
                yield from asked.ask(line, self._wait_seconds if line.has_served else math.inf)

    @contextlib.contextmanager
    def _lent(self, line: _Line) -> Generator[None]:
        """Keep the connection for the next job, or close it if this one is not done with it: the rest is called off."""
        try:
            yield
        except BaseException:
            line.connection.close()
            raise
        self._kept.append(replace(line, has_served=True))

    def _line(self) -> Generator[Scored, None, _Line]:
        """A connection that was kept, or a new one."""
        return self._take_kept() or (yield from self._connect())

    def _take_kept(self) -> _Line | None:
        if self._kept_by != os.getpid():
            self._kept, self._kept_by = [], os.getpid()  # those are of the process that forked this one
        with contextlib.suppress(IndexError):
            while not (line := self._kept.pop()).is_quiet(0):
                line.connection.close()
            return line
        return None

    def _connect(self) -> Generator[Scored, None, _Line]:
        give_up_at = time.monotonic() + self._wait_seconds
        while True:
            with contextlib.suppress(*_LOST):
                connection = Client(str(self._socket_path), "AF_UNIX")
                try:
                    return _Line(connection, (yield from _greeting(connection, give_up_at)))
                except BaseException:
                    connection.close()
                    raise
            if time.monotonic() >= give_up_at:
                raise EngineAway(
                    f"no engine answered at {self._socket_path} within {self._wait_seconds:g} s; "
                    "`rerankq-worker health` tells how it is"
                )
            yield NOTHING_YET
            time.sleep(RETRY_SECONDS)


def _rows_in(frame: frames.Frame) -> Sequence[Row]:
    match frame:
        case RowsRead(rows):
            return rows
        case NotRead(error):
            raise error
        case Failed(message):
            raise EngineRefused(message)
        case Leaving():
            raise EOFError
        case other:
            raise BadFrame(f"expected rows, got {type(other).__name__}. This is a bug.")


@dataclass(slots=True)
class _AskedRows:
    """One job's rows, and what has become of each."""

    job_id: str
    lane: Lane
    rows: list[TokenIds]
    _more: Iterator[Sequence[TokenIds]]
    _is_whole: bool = False
    """Nothing more is to come."""
    _is_scored: npt.NDArray[np.bool_] = field(init=False)
    _is_on_device: npt.NDArray[np.bool_] = field(init=False)
    _is_suspect: npt.NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self._is_scored, self._is_on_device, self._is_suspect = np.zeros((3, len(self.rows)), dtype=np.bool_)

    @property
    def is_done(self) -> bool:
        return self._is_whole and bool(self._is_scored.all())

    def blame_rows_on_device(self) -> None:
        """The engine died: the rows it had on the device are suspects, or convicted when they already were."""
        if (self._is_suspect & self._is_on_device).any():
            raise EngineKilledTwice(
                f"the engine died twice under job {self.job_id}, the second time while it ran alone"
            )
        self._is_suspect |= self._is_on_device
        self._is_on_device[:] = False

    def ask(self, line: _Line, silence_seconds: float) -> Iterator[Scored]:
        """Send what is unscored, and what is read meanwhile, and yield what comes, until all is scored.

        Raises:
            EngineRefused
            EOFError, OSError: the connection ended, or not a word came in so many seconds.
        """
        _send(line, self._asks())
        for asks in self._further_asks():
            _send(line, asks)
            yield NOTHING_YET
            # Whoever does not read is hung up on.
            while not self._is_scored.all() and not line.is_quiet(0):
                yield self._hear(line)
        give_up_at = time.monotonic() + silence_seconds
        tick_seconds = FIRST_TICK_SECONDS
        while not self.is_done:
            if line.is_quiet(tick_seconds):
                tick_seconds = TICK_SECONDS
                if time.monotonic() >= give_up_at:
                    raise TimeoutError
                yield NOTHING_YET
                continue
            give_up_at = math.inf
            yield self._hear(line)

    def _hear(self, line: _Line) -> Scored:
        match frames.decode(line.connection.recv_bytes(frames.MAX_FRAME_BYTES)):
            case Running(indices):
                self._is_on_device[indices] = True
                return NOTHING_YET
            case Scores(indices, logits):
                return self._take(indices, logits)
            case Failed(message):
                raise EngineRefused(message)
            case Leaving():
                self._is_on_device[:] = False
                raise EOFError
            case other:
                raise BadFrame(f"expected scores, got {type(other).__name__}. This is a bug.")

    def _further_asks(self) -> Iterator[list[RowsToScore]]:
        for rows in self._more:
            first = len(self.rows)
            self.rows += rows
            grown = [
                np.append(known, np.zeros(len(rows), dtype=np.bool_))
                for known in (self._is_scored, self._is_on_device, self._is_suspect)
            ]
            self._is_scored, self._is_on_device, self._is_suspect = grown
            yield self._frames(np.arange(first, len(self.rows)), is_suspect=False)
        self._is_whole = True

    def _asks(self) -> list[RowsToScore]:
        innocent = np.flatnonzero(~self._is_scored & ~self._is_suspect)
        suspect = np.flatnonzero(~self._is_scored & self._is_suspect)
        return [*self._frames(innocent, is_suspect=False), *self._frames(suspect, is_suspect=True)]

    def _frames(self, indices: npt.NDArray[np.intp], *, is_suspect: bool) -> list[RowsToScore]:
        rows = [self.rows[index] for index in indices]
        return frames.asks_for(
            self.job_id, self.lane, suspect=is_suspect, indices=indices.astype(np.int32), rows=rows
        )

    def _take(self, indices: npt.NDArray[np.int32], logits: Logits) -> Scored:
        self._is_scored[indices] = True
        self._is_on_device[indices] = False
        return Scored(indices.astype(np.int64), logits)


def _apart(more: Iterable[Sequence[TokenIds]]) -> Iterator[Sequence[TokenIds]]:
    """The same; what ends the reading is never taken for the end of a connection."""
    try:
        yield from more
    except _LOST as error:
        raise RuntimeError(f"rows could not be read ({type(error).__name__})") from error


def _send(line: _Line, asks: Iterable[RowsToScore]) -> None:
    with contextlib.suppress(OSError):  # its end is heard behind which rows it had on the device
        for ask in asks:
            line.connection.send_bytes(frames.encode(ask))


def _model_of(engine: EngineInfo) -> tuple[str, str]:
    return engine.model, engine.revision


def _greeting(connection: EngineConnection, give_up_at: float) -> Generator[Scored, None, Hello]:
    while not connection.poll(TICK_SECONDS):
        if time.monotonic() >= give_up_at:
            raise EngineAway("the engine accepted a connection and said nothing; it is frozen or overloaded")
        yield NOTHING_YET
    hello = frames.decode(connection.recv_bytes(frames.MAX_FRAME_BYTES))
    if not isinstance(hello, Hello):
        raise BadFrame(f"expected a greeting, got {type(hello).__name__}. This is a bug.")
    return hello


def _last_word_of(asking: Generator[Any, None, _Line], watch: Callable[[], object] = lambda: None) -> _Line:
    while True:
        try:
            next(asking)
            watch()
        except StopIteration as end:
            return end.value
