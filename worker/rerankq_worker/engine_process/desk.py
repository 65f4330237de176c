"""Who waits for what: connections, the rows they asked for, and the batch that is cut from them next.

The one place where the threads of an engine process meet; every public method may be called from any of them.
Knows no model and no clock.
"""

import itertools
import select
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from rerankq.contract.messages import LANES
from rerankq_worker.engine_process.scheduler import Scheduler
from rerankq_worker.link import frames
from rerankq_worker.link.frames import (
    BadFrame,
    Failed,
    Frame,
    Indices,
    Leaving,
    RowsToScore,
    Running,
    Scores,
    TextsToRead,
)
from rerankq_worker.link.health import Demand
from rerankq_worker.scoring import Logits, TokenIds


class Asker:
    """One connection, and the tickets of what it still waits for."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self.tickets: set[int] = set()
        self.job_id: str | None = None  # which it asked for last
        self._connection = connection
        self._lock = threading.Lock()
        self._is_open = True
        self._room = select.poll()
        self._room.register(connection.fileno(), select.POLLOUT)

    def receive(self) -> RowsToScore | TextsToRead:
        """The next rows to score, or texts to read; waits for them.

        Raises:
            EOFError, OSError: the asker hung up.
            BadFrame: it said something else.
        """
        frame = frames.decode(self._connection.recv_bytes(frames.MAX_FRAME_BYTES))
        if not isinstance(frame, RowsToScore | TextsToRead):
            raise BadFrame(f"expected rows or texts, got {type(frame).__name__}")
        return frame

    def send(self, frame: Frame) -> bool:
        """Whether the frame went out. Never waits: an asker that does not read is hung up on."""
        with self._lock:
            if not self._is_open:
                return False
            try:
                if not self._has_room():
                    raise BlockingIOError("the asker does not read")
                self._connection.send_bytes(frames.encode(frame))
            except OSError:
                self._shut_down()
                return False
            return True

    def send_off(self) -> None:
        """Tell the asker that its next job is for the successor, and hang up; from any thread."""
        self.send(Leaving())
        with self._lock:
            if self._is_open:
                self._shut_down()

    def close(self) -> None:
        """Give the descriptor back. Only for the thread that reads: nobody else can know that it is unused."""
        with self._lock:
            self._is_open = False
            self._connection.close()

    def _has_room(self) -> bool:
        """Whether a frame of some KB can be written without waiting: Linux says writable below a quarter full."""
        return any(events & select.POLLOUT for _, events in self._room.poll(0))

    def _shut_down(self) -> None:
        self._is_open = False
        with socket.fromfd(self._connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as twin:
            twin.shutdown(socket.SHUT_RDWR)  # wakes the reading thread, which closes


@dataclass(slots=True, eq=False)
class _OpenAsk:
    asker: Asker
    ask: RowsToScore
    left: int


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """What one asker has in a batch."""

    asker: Asker
    ticket: int
    indices: Indices
    rows: Sequence[TokenIds]
    is_suspect: bool


@dataclass(slots=True)
class Desk:
    """Takes rows in, gives batches out, hands scores back."""

    max_pairs: int
    max_tokens: int
    max_length_tokens: int
    _jobs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LANES, 0))
    _open_asks: dict[int, _OpenAsk] = field(default_factory=dict[int, _OpenAsk])
    _askers: set[Asker] = field(default_factory=set[Asker])
    _is_closing: bool = False
    _tickets: "itertools.count[int]" = field(default_factory=itertools.count)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _scheduler: Scheduler = field(init=False)

    def __post_init__(self) -> None:
        self._scheduler = Scheduler(self.max_pairs, self.max_tokens)

    def admit(self, asker: Asker) -> None:
        """Know an asker from now on."""
        with self._changed:
            self._askers.add(asker)

    def submit(self, asker: Asker, ask: RowsToScore) -> None:
        """Queue rows; ones that the model cannot read are refused, and with them the job.

        Once it is closing time, those of a further job are not taken: their asker is sent off.
        """
        longest = max(map(len, ask.rows))
        if longest > self.max_length_tokens:
            self.refuse(asker, f"expected rows of at most {self.max_length_tokens} tokens, got {longest}")
            return
        with self._changed:
            if self._is_closing and not asker.tickets:
                asker.send_off()
                return
            if ask.job_id != asker.job_id:
                asker.job_id = ask.job_id
                self._jobs[ask.lane] += 1
            ticket = next(self._tickets)
            asker.tickets.add(ticket)
            self._open_asks[ticket] = _OpenAsk(asker, ask, left=len(ask.rows))
            self._scheduler.add(ticket, list(map(len, ask.rows)), ask.lane, is_suspect=ask.suspect)
            self._changed.notify()

    def next_batch(self, wait_seconds: float, *, no_suspect: bool = False) -> list[Share]:
        """The next batch; empty when none came in time, or it is a suspect's turn and none is wanted."""
        with self._changed:
            batch = self._scheduler.next_batch(no_suspect=no_suspect)
            if not batch and wait_seconds > 0 and self._changed.wait(wait_seconds):
                batch = self._scheduler.next_batch(no_suspect=no_suspect)
            return [self._share(piece.ticket, piece.positions) for piece in batch]

    def announce(self, shares: Sequence[Share]) -> list[Share]:
        """The shares whose askers now know that their rows go onto the device; the others are gone."""
        heard = [s for s in shares if s.asker.tickets and s.asker.send(Running(s.indices))]
        for share in shares:
            if share not in heard:
                self.forget(share.asker)
        return heard

    def deliver(self, share: Share, logits: Logits) -> None:
        """Hand an asker its scores."""
        with self._changed:
            open_ask = self._open_asks.get(share.ticket)
            if open_ask is None:  # called off meanwhile
                return
            open_ask.left -= len(share.rows)
            if open_ask.left == 0:
                del self._open_asks[share.ticket]
                share.asker.tickets.discard(share.ticket)
        if not share.asker.send(Scores(share.indices, logits)):
            self.forget(share.asker)

    def refuse(self, asker: Asker, reason: str) -> None:
        """Tell an asker that its job cannot be scored, and forget the job."""
        self.forget(asker)
        asker.send(Failed(reason))

    def forget(self, asker: Asker) -> None:
        """Drop what an asker still waits for: it left, or was refused."""
        with self._changed:
            for ticket in asker.tickets:
                self._scheduler.cancel(ticket)
                self._open_asks.pop(ticket, None)
            asker.tickets.clear()

    def dismiss(self, asker: Asker) -> None:
        """Forget the asker itself."""
        self.forget(asker)
        with self._changed:
            self._askers.discard(asker)

    def limit(self, max_tokens: int) -> None:
        """Cut batches of at most this many tokens from now on: the engine found out what fits."""
        with self._changed:
            self._scheduler.max_tokens = max_tokens

    def close(self) -> None:
        """Take no further job: whoever waits for nothing is sent off."""
        with self._changed:
            self._is_closing = True
            idle = [asker for asker in self._askers if not asker.tickets]
        for asker in idle:
            asker.send_off()

    def tell_all(self, frame: Frame) -> None:
        """Send a frame to every asker there is."""
        with self._changed:
            askers = list(self._askers)
        for asker in askers:
            asker.send(frame)

    @property
    def is_idle(self) -> bool:
        """Nobody waits for anything."""
        with self._changed:
            return not self._open_asks

    def demand(self) -> Demand:
        """What has been asked for, for the heartbeat."""
        with self._changed:
            return Demand({lane: self._scheduler.waiting_rows(lane) for lane in LANES}, dict(self._jobs))

    def _share(self, ticket: int, positions: list[int]) -> Share:
        open_ask = self._open_asks[ticket]
        ask = open_ask.ask
        rows = [ask.rows[position] for position in positions]
        return Share(open_ask.asker, ticket, ask.indices[np.array(positions)], rows, ask.suspect)
