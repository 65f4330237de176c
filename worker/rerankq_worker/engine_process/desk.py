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
    Rows,
    Running,
    Scores,
)
from rerankq_worker.link.health import Queue
from rerankq_worker.scoring import Logits, TokenIds


class Client:
    """One connection, and the tickets of what it still waits for."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self.tickets: set[int] = set()
        self.has_asked = False
        self._connection = connection
        self._lock = threading.Lock()
        self._is_open = True

    def receive(self) -> Rows:
        """The next rows to score; waits for them.

        Raises:
            EOFError, OSError: the client hung up.
            BadFrame: it said something else.
        """
        frame = frames.decode(self._connection.recv_bytes(frames.MAX_FRAME_BYTES))
        if not isinstance(frame, Rows):
            raise BadFrame(f"expected rows, got {type(frame).__name__}")
        return frame

    def send(self, frame: Frame) -> bool:
        """Whether the frame went out. Never waits: a client that does not read is hung up on."""
        with self._lock:
            if not self._is_open:
                return False
            try:
                if not _has_room(self._connection.fileno()):
                    raise BlockingIOError("the client does not read")
                self._connection.send_bytes(frames.encode(frame))
            except OSError:
                self._shut_down()
                return False
            return True

    def close(self) -> None:
        """Give the descriptor back. Only for the thread that reads: nobody else can know that it is unused."""
        with self._lock:
            self._is_open = False
            self._connection.close()

    def _shut_down(self) -> None:
        self._is_open = False
        with socket.fromfd(self._connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as twin:
            twin.shutdown(socket.SHUT_RDWR)  # wakes the reading thread, which closes


@dataclass(slots=True, eq=False)
class _Request:
    client: Client
    rows: Rows
    left: int


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one client has in a batch."""

    client: Client
    ticket: int
    indices: Indices
    rows: Sequence[TokenIds]

    @property
    def tokens(self) -> int:
        """Tokens of all its rows."""
        return sum(map(len, self.rows))


@dataclass(slots=True)
class Desk:
    """Takes requests in, gives batches out, hands scores back."""

    max_pairs: int
    max_tokens: int
    max_length_tokens: int
    _jobs: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LANES, 0))
    _requests: dict[int, _Request] = field(default_factory=dict[int, _Request])
    _clients: set[Client] = field(default_factory=set[Client])
    _tickets: "itertools.count[int]" = field(default_factory=itertools.count)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _scheduler: Scheduler = field(init=False)

    def __post_init__(self) -> None:
        self._scheduler = Scheduler(self.max_pairs, self.max_tokens)

    def admit(self, client: Client) -> None:
        """Know a client from now on."""
        with self._changed:
            self._clients.add(client)

    def submit(self, client: Client, rows: Rows) -> None:
        """Queue rows; ones that the model cannot read are refused, and with them the job."""
        longest = max(map(len, rows.rows))
        if longest > self.max_length_tokens:
            self.refuse(client, f"expected rows of at most {self.max_length_tokens} tokens, got {longest}")
            return
        with self._changed:
            if not client.has_asked:
                client.has_asked = True
                self._jobs[rows.lane] += 1
            ticket = next(self._tickets)
            client.tickets.add(ticket)
            self._requests[ticket] = _Request(client, rows, left=len(rows.rows))
            self._scheduler.add(ticket, list(map(len, rows.rows)), rows.lane, is_suspect=rows.suspect)
            self._changed.notify()

    def next_batch(self, wait_seconds: float) -> list[Part]:
        """The next batch; empty when none came in time."""
        with self._changed:
            batch = self._scheduler.next_batch()
            if not batch and self._changed.wait(wait_seconds):
                batch = self._scheduler.next_batch()
            return [self._part(piece.ticket, piece.positions) for piece in batch]

    def announce(self, parts: Sequence[Part]) -> list[Part]:
        """The parts whose clients now know that their rows go onto the device; the others are gone."""
        heard = [part for part in parts if part.client.send(Running(part.indices))]
        for part in parts:
            if part not in heard:
                self.forget(part.client)
        return heard

    def deliver(self, part: Part, logits: Logits) -> None:
        """Hand a client its scores."""
        with self._changed:
            request = self._requests.get(part.ticket)
            if request is None:  # called off meanwhile
                return
            request.left -= len(part.rows)
            if request.left == 0:
                del self._requests[part.ticket]
                part.client.tickets.discard(part.ticket)
        if not part.client.send(Scores(part.indices, logits)):
            self.forget(part.client)

    def refuse(self, client: Client, reason: str) -> None:
        """Tell a client that its job cannot be scored, and forget the job."""
        self.forget(client)
        client.send(Failed(reason))

    def forget(self, client: Client) -> None:
        """Drop what a client still waits for: it left, or was refused."""
        with self._changed:
            for ticket in client.tickets:
                self._scheduler.cancel(ticket)
                self._requests.pop(ticket, None)
            client.tickets.clear()

    def dismiss(self, client: Client) -> None:
        """Forget the client itself."""
        self.forget(client)
        with self._changed:
            self._clients.discard(client)

    def limit(self, max_tokens: int) -> None:
        """Cut batches of at most this many tokens from now on: the engine found out what fits."""
        with self._changed:
            self._scheduler.max_tokens = max_tokens

    def tell_all(self, frame: Frame) -> None:
        """Send a frame to every client there is."""
        with self._changed:
            clients = list(self._clients)
        for client in clients:
            client.send(frame)

    @property
    def is_idle(self) -> bool:
        """Nobody waits for anything."""
        with self._changed:
            return not self._requests

    def queue(self) -> Queue:
        """What has been asked for, for the heartbeat."""
        with self._changed:
            return Queue({lane: self._scheduler.waiting_rows(lane) for lane in LANES}, dict(self._jobs))

    def _part(self, ticket: int, positions: list[int]) -> Part:
        request = self._requests[ticket]
        rows = [request.rows.rows[position] for position in positions]
        return Part(request.client, ticket, request.rows.indices[np.array(positions)], rows)


def _has_room(descriptor: int) -> bool:
    """Whether a frame of some KB can be written without waiting: Linux says writable below a quarter full."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(events & select.POLLOUT for _, events in poll.poll(0))
