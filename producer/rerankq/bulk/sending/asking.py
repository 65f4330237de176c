"""Rows into requests, requests into answers, as two generators that keep no more than a window in memory."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rerankq.bulk.rows import FIELDS_SEEN, Entry, InputRow, seen
from rerankq.bulk.sending.pack_sender import AnsweredPack, PackSender
from rerankq.bulk.sending.packing import Pack
from rerankq.client import RerankClient
from rerankq.contract.errors import InvalidRequest, RerankError
from rerankq.contract.messages import RerankRequest

NEWS_SECONDS = 0.25  # how long one wait for answers may keep progress from being shown
WINDOW_BYTES = 32_000_000
ALIKE_ROWS = 100
Item = TypeVar("Item")
_DIGITS = re.compile(r"\d+")  # places and columns differ where the reason does not


@dataclass(slots=True)
class Window:
    """How much may be in memory: rows under way, and answers that wait for an earlier one."""

    max_bytes: int = WINDOW_BYTES
    held_bytes: int = 0

    @property
    def is_open(self) -> bool:
        """Whether another pack may be read. One always fits, however large."""
        return self.held_bytes < self.max_bytes

    def take(self, size_bytes: int) -> None:
        """Something is in memory."""
        self.held_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Something has left memory."""
        self.held_bytes -= size_bytes


def validated(position: int, row: InputRow, client: RerankClient, options: Mapping[str, Any]) -> Entry:
    """The row in its place, as a request where it makes one."""
    if row.error is not None:
        return Entry(position, row, None, row.error)
    try:
        return Entry(position, row, request_of(row, client, options))
    except InvalidRequest as error:
        return Entry(position, row, None, error)


def request_of(row: InputRow, client: RerankClient, options: Mapping[str, Any]) -> RerankRequest:
    """The row's request on the bulk lane; what the row sets for itself goes before the run's options."""
    for name, value in (("query", row.query), ("documents", row.documents)):
        if value is None:
            raise InvalidRequest(f"{name}: is missing{seen(row.source)}", {"field": name})
    fields: dict[str, Any] = {**options, **row.options, "lane": "bulk"}
    return client.request(row.query, row.documents, **fields)


def of_some_use(entries: Iterable[Entry], path: str) -> Iterator[Entry]:
    """The entries, unless the first hundred all fail alike: then the input has another shape than it is read in."""
    reasons: set[str] = set()
    for count, entry in enumerate(entries, start=1):
        if count <= ALIKE_ROWS:
            reasons.add("" if entry.error is None else _DIGITS.sub("#", _reason(entry.error)))
            if count == ALIKE_ROWS and len(reasons) == 1 and entry.error is not None:
                raise _wrong_shape(path, entry, entry.error)
        yield entry


def _reason(error: RerankError) -> str:
    """Without the fields of its own row."""
    return error.message.partition(FIELDS_SEEN)[0]


def _wrong_shape(path: str, entry: Entry, error: RerankError) -> InvalidRequest:
    reason = error.message if FIELDS_SEEN in error.message else f"{error.message}{seen(entry.row.source)}"
    return InvalidRequest(
        f"the first {ALIKE_ROWS} rows of {path} all fail alike: {reason}; --query-field, "
        "--documents-field, --id-field and --text-field say what a field is called, --format how it is read",
        {"field": "input"},
    )


def answered(
    packs: Iterator[Pack], sender: PackSender, window: Window, watch: Callable[[], None] = lambda: None
) -> Iterator[AnsweredPack]:
    """The packs as their answers come; `watch` is called now and then meanwhile.

    Whoever takes a pack releases its bytes from the window once it is written.
    """
    waiting: Pack | None = next(packs, None)
    while waiting is not None or not sender.is_empty:
        while waiting is not None and sender.has_room and window.is_open:
            window.take(waiting.size_bytes)
            sender.send(waiting)
            waiting = next(packs, None)
        yield from sender.answered(NEWS_SECONDS)
        watch()


def in_order(
    items: Iterable[Item], span_of: Callable[[Item], tuple[int, int]], position: int = 0
) -> Iterator[Item]:
    """The items by position, from this one on; early ones are kept until their turn."""
    early: dict[int, Item] = {}
    for item in items:
        early[span_of(item)[0]] = item
        while position in early:
            ready = early.pop(position)
            position = span_of(ready)[1]
            yield ready
