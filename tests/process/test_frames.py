"""Frames survive the trip, and bytes that are none are refused as such."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankq_worker.link import frames
from rerankq_worker.link.frames import (
    BadFrame,
    Failed,
    Hello,
    Leaving,
    NotRead,
    RowsToScore,
    Running,
    Scores,
    TextsToRead,
    decode,
    encode,
)
from rerankq_worker.model.reading import DocumentTooLong, NoInstruction, QueryTooLong, Reading, Unreadable
from rerankq_worker.scoring import EngineInfo
from tests.process.engine_under_test import rows_of


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(Hello("b1", EngineInfo("m", "r", "cpu", "fp32", 1024, 32, 4096)), id="hello"),
        pytest.param(Failed("no"), id="failed"),
        pytest.param(Leaving(), id="leaving"),
        pytest.param(
            TextsToRead(Reading(query="大", documents=["", "a\n"], max_windows_per_doc=3)), id="texts"
        ),
    ],
)
def test_a_frame_of_words_comes_out_as_it_went_in(frame: frames.Frame) -> None:
    assert decode(encode(frame)) == frame


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.booleans())
def test_rows_come_out_as_they_went_in(lengths: list[int], is_suspect: bool) -> None:
    rows = [np.arange(length, dtype=np.int32) for length in lengths]
    indices = np.arange(len(rows), dtype=np.int32) + 7

    out = decode(encode(RowsToScore("job", "bulk", is_suspect, indices, rows)))

    assert isinstance(out, RowsToScore)
    assert (out.job_id, out.lane, out.suspect) == ("job", "bulk", is_suspect)
    assert out.indices.tolist() == indices.tolist()
    assert [row.tolist() for row in out.rows] == [row.tolist() for row in rows]


@pytest.mark.parametrize("error", [QueryTooLong(5), DocumentTooLong([1, 4], 9), NoInstruction()], ids=str)
def test_why_texts_cannot_be_read_comes_out_as_it_went_in(error: Unreadable) -> None:
    out = decode(encode(NotRead(error)))

    assert isinstance(out, NotRead)
    assert (type(out.error), str(out.error)) == (type(error), str(error))


def test_texts_are_in_no_frames_words() -> None:
    assert "secret" not in repr(TextsToRead(Reading(query="secret", documents=["secret"])))


def test_scores_keep_every_bit_and_nan() -> None:
    logits = np.array([0.1, np.nan, -7e-30], dtype=np.float32)

    out = decode(encode(Scores(np.array([3, 1, 2], dtype=np.int32), logits)))

    assert isinstance(out, Scores)
    assert out.logits.tobytes() == logits.tobytes()
    assert out.indices.tolist() == [3, 1, 2]


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_as_no_frame(data: bytes) -> None:
    with pytest.raises(BadFrame):
        decode(data)


@given(st.data())
def test_a_frame_with_a_wrong_byte_is_a_frame_or_refused_but_nothing_else(data: st.DataObject) -> None:
    good = bytearray(
        encode(RowsToScore("job", "bulk", False, np.arange(3, dtype=np.int32), rows_of(2, 3, 4)))
    )
    good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))

    try:
        frame = decode(bytes(good))
    except BadFrame:
        return
    assert isinstance(frame, RowsToScore | Running | Scores | Failed | Leaving)


def test_rows_whose_lengths_contradict_their_tokens_are_refused() -> None:
    good = encode(RowsToScore("job", "bulk", False, np.arange(2, dtype=np.int32), rows_of(2, 3)))

    with pytest.raises(BadFrame):
        decode(good[:-4])


@given(st.lists(st.integers(1, 400), max_size=60))
def test_a_large_job_is_split_into_frames_under_the_limit(lengths: list[int]) -> None:
    limit, frames.MAX_ROW_TOKENS_PER_FRAME = frames.MAX_ROW_TOKENS_PER_FRAME, 500
    try:
        rows = rows_of(*lengths)
        parts = frames.asks_for(
            "job", "bulk", suspect=False, indices=np.arange(len(rows), dtype=np.int32), rows=rows
        )
    finally:
        frames.MAX_ROW_TOKENS_PER_FRAME = limit

    assert [index for part in parts for index in part.indices.tolist()] == list(range(len(rows)))
    assert all(sum(map(len, part.rows)) <= 500 for part in parts)
