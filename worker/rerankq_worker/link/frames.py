"""What a Celery worker and an engine say to each other over a unix socket, as bytes.

    client                          engine
                    ◀── Hello       who I am and what I hold
    TextsToRead ──▶                 these, in words, to an engine that reads itself; one frame after another
                    ◀── RowsRead    and these are they, in tokens
                    ◀── NotRead     they cannot be read as was asked
    RowsToScore ──▶                 these, in tokens; several frames for a large job
                    ◀── Running     these rows go onto the device now
                    ◀── Scores      and these are their logits
                    ◀── Failed      the job cannot be scored, nobody else is concerned
                    ◀── Leaving     I am stopping in good order; ask my successor for the rest
    (closing the connection calls the rest off)

A frame is 4 bytes of header length, a JSON header and raw arrays, never a pickle: what comes in is data, not code.
Knows no socket and no engine.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import orjson

from rerankq.contract.messages import LANES, Lane
from rerankq_worker.model.reading import Reading, Row, Span, Unreadable
from rerankq_worker.scoring import EngineInfo, Logits, TokenIds

_Number = TypeVar("_Number", bound=np.generic)
Indices = npt.NDArray[np.int32]

MAX_FRAME_BYTES = 16_000_000  # a peer that speaks something else must not make us reserve gigabytes
MAX_ROW_TOKENS_PER_FRAME = 2_000_000  # half a frame: leaves room for header, indices and lengths
MAX_ROWS_PER_FRAME = 100_000
MAX_TEXT_CHARACTERS_PER_FRAME = 250_000
MAX_ROWS_READ_BYTES = 128_000_000  # a long text in windows repeats the query in each of its rows
MAX_TEXTS_PER_FRAME = 250

_HEADER_LENGTH = struct.Struct(">I")
_INTEGERS, _FLOATS = np.dtype("<i4"), np.dtype("<f4")


class BadFrame(ValueError):
    """These bytes are no frame of ours."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The engine's first words. `boot` is new with every start, so that a death can be told from a hang-up."""

    boot: str
    description: EngineInfo


@dataclass(frozen=True, slots=True, eq=False)
class RowsToScore:
    """Rows to score, each under an index of the client's choosing. Suspect rows never share a batch."""

    job_id: str
    lane: Lane
    suspect: bool
    indices: Indices
    rows: Sequence[TokenIds]


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """These rows go onto the device now; should the engine die before their scores, they are suspects."""

    indices: Indices


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Logits of these rows; NaN where the model gave no finite number."""

    indices: Indices
    logits: Logits


@dataclass(frozen=True, slots=True)
class Failed:
    """The job cannot be scored; `message` never holds a user's text."""

    message: str


@dataclass(frozen=True, slots=True)
class Leaving:
    """The engine stops in good order; no row of this connection is on the device."""


@dataclass(frozen=True, slots=True)
class TextsToRead:
    """A query and some of a job's documents, to be made rows of."""

    reading: Reading = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class RowsRead:
    """What became of texts; which document a row is of counts from the first that was sent with them."""

    rows: Sequence[Row]


@dataclass(frozen=True, slots=True, eq=False)
class NotRead:
    """Why texts cannot be read; `error` never holds any of them."""

    error: Unreadable


Frame = TextsToRead | RowsRead | NotRead | Hello | RowsToScore | Running | Scores | Failed | Leaving


def encode(frame: Frame) -> bytes:
    """The frame as bytes."""
    match frame:
        case Hello():
            return _join({"kind": "hello", "boot": frame.boot, "description": asdict(frame.description)})
        case RowsToScore():
            lengths = np.array([len(row) for row in frame.rows], dtype=np.int32)
            header = {
                "kind": "rows",
                "job_id": frame.job_id,
                "lane": frame.lane,
                "suspect": frame.suspect,
                "rows": len(frame.rows),
            }
            return _join(header, frame.indices, lengths, *frame.rows)
        case TextsToRead():
            return _join({"kind": "texts", **asdict(frame.reading)})
        case RowsRead():
            return _encode_rows(frame.rows)
        case NotRead():
            error = {"error": type(frame.error).__name__, "arguments": frame.error.args}
            return _join({"kind": "unreadable", **error})
        case Running():
            return _join({"kind": "running"}, frame.indices)
        case Scores():
            return _join({"kind": "scores"}, frame.indices, frame.logits)
        case Failed():
            return _join({"kind": "failed", "message": frame.message})
        case Leaving():
            return _join({"kind": "leaving"})


def decode(data: bytes) -> Frame:
    """The frame behind the bytes.

    Raises:
        BadFrame: they are none of ours, or contradict themselves.
    """
    try:
        header, body = _split(data)
        return _build(header, body)
    except (KeyError, TypeError, ValueError, OverflowError, struct.error) as error:
        raise BadFrame(
            f"expected a frame, got {len(data)} bytes that are none ({type(error).__name__})"
        ) from error


def asks_for(
    job_id: str, lane: Lane, *, suspect: bool, indices: Indices, rows: Sequence[TokenIds]
) -> list[RowsToScore]:
    """Ask for `rows` (one per index) in as many frames as they take."""
    asks: list[RowsToScore] = []
    first, tokens = 0, 0
    for position, row in enumerate(rows):
        is_full = tokens + len(row) > MAX_ROW_TOKENS_PER_FRAME or position - first == MAX_ROWS_PER_FRAME
        if is_full and position > first:
            asks.append(RowsToScore(job_id, lane, suspect, indices[first:position], rows[first:position]))
            first, tokens = position, 0
        tokens += len(row)
    if first < len(rows):
        asks.append(RowsToScore(job_id, lane, suspect, indices[first:], rows[first:]))
    return asks


def texts_of(reading: Reading) -> Iterator[tuple[int, TextsToRead]]:
    """Ask for a reading in as many frames as it takes; with each the place of its first document."""
    first, characters = 0, 0
    documents = reading.documents
    for position, text in enumerate(documents):
        is_full = (
            characters + len(text) > MAX_TEXT_CHARACTERS_PER_FRAME or position - first == MAX_TEXTS_PER_FRAME
        )
        if is_full and position > first:
            yield first, TextsToRead(replace(reading, documents=documents[first:position]))
            first, characters = position, 0
        characters += len(text)
    if first < len(documents):
        yield first, TextsToRead(replace(reading, documents=documents[first:]))


def parted(numbers: npt.NDArray[_Number], lengths: Iterable[int]) -> list[npt.NDArray[_Number]]:
    """The numbers in pieces of these lengths; `np.split` costs as much again as the frame of a small job."""
    ends = list(accumulate(lengths, initial=0))
    return [numbers[start:end] for start, end in pairwise(ends)]


def _join(header: dict[str, Any], *arrays: npt.NDArray[Any]) -> bytes:
    head = orjson.dumps(header)
    return b"".join([_HEADER_LENGTH.pack(len(head)), head, *(array.tobytes() for array in arrays)])


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    (length,) = _HEADER_LENGTH.unpack_from(data)
    head, body = data[4 : 4 + length], memoryview(data)[4 + length :]
    if len(head) != length:
        raise ValueError("header cut off")
    header = orjson.loads(head)
    if not isinstance(header, dict):
        raise TypeError("header is no object")
    return cast(dict[str, Any], header), body


def _build(header: dict[str, Any], body: memoryview) -> Frame:
    match header["kind"]:
        case "hello":
            return Hello(_text(header["boot"]), EngineInfo(**header["description"]))
        case "rows":
            return _rows_to_score(header, _integers(body))
        case "texts":
            del header["kind"]
            return TextsToRead(Reading(**header))
        case "read":
            return _rows_read(header, _integers(body))
        case "unreadable":
            return NotRead(_unreadables()[header["error"]](*header["arguments"]))
        case "running":
            return Running(_integers(body))
        case "scores":
            return _scores(body)
        case "failed":
            return Failed(_text(header["message"]))
        case "leaving":
            return Leaving()
        case _:
            raise ValueError("unknown kind")


def _rows_to_score(header: dict[str, Any], numbers: Indices) -> RowsToScore:
    lane, suspect, count = header["lane"], header["suspect"], header["rows"]
    if lane not in LANES or not isinstance(suspect, bool) or not 1 <= count <= MAX_ROWS_PER_FRAME:
        raise ValueError("unknown lane or suspicion, or no rows")
    indices, lengths, tokens = numbers[:count], numbers[count : 2 * count], numbers[2 * count :]
    if len(lengths) != count or int(lengths.min()) < 1 or int(lengths.sum(dtype=np.int64)) != len(tokens):
        raise ValueError("lengths contradict the tokens")
    rows = parted(tokens, lengths.tolist())
    return RowsToScore(_text(header["job_id"]), lane, suspect, indices, rows)


def _encode_rows(rows: Sequence[Row]) -> bytes:
    header = {
        "kind": "read",
        "truncated": [bool(row.truncated) for row in rows],
        "documents": [row.document for row in rows],
        "spans": [row.span and astuple(row.span) for row in rows],
    }
    lengths = np.array([len(row.token_ids) for row in rows], dtype=np.int32)
    return _join(header, lengths, *(row.token_ids for row in rows))


def _rows_read(header: dict[str, Any], numbers: Indices) -> RowsRead:
    said = list(zip(header["truncated"], header["documents"], header["spans"], strict=True))
    lengths, tokens = numbers[: len(said)], numbers[len(said) :]
    if len(lengths) != len(said) or int(lengths.sum(dtype=np.int64)) != len(tokens):
        raise ValueError("lengths contradict the tokens")
    ids = parted(tokens, lengths.tolist())
    return RowsRead(
        [
            Row(row, truncated, document, span and Span(*span))
            for row, (truncated, document, span) in zip(ids, said, strict=True)
        ]
    )


def _unreadables(kind: type[Unreadable] = Unreadable) -> dict[str, type[Unreadable]]:
    """All there are, by name."""
    found = {kind.__name__: kind}
    for narrower in kind.__subclasses__():
        found |= _unreadables(narrower)
    return found


def _scores(body: memoryview) -> Scores:
    middle = len(body) // 2
    indices, logits = _integers(body[:middle]), np.frombuffer(body[middle:], dtype=_FLOATS)
    if len(indices) != len(logits):
        raise ValueError("not one logit per index")
    return Scores(indices, logits)


def _integers(body: memoryview) -> Indices:
    return np.frombuffer(body, dtype=_INTEGERS)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("expected a string")
    return value
