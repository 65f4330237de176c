"""What a job knows of its rows' scores: equal rows are asked for once and answered alike."""

import numpy as np

from rerankq_worker.job.score_sheet import ScoreSheet
from rerankq_worker.model.reading import Row, Span

NAN = float("nan")


def sheet_of(*tokens: int, logits: list[float] | None = None) -> ScoreSheet:
    """Rows of one token each, and what an earlier attempt left of their scores."""
    rows = [
        Row(np.array([0, token], dtype=np.int32), truncated=False, document=place)
        for place, token in enumerate(tokens)
    ]
    return _sheet(rows, logits or [NAN] * len(rows))


def _sheet(rows: list[Row], logits: list[float]) -> ScoreSheet:
    sheet = ScoreSheet()
    sheet.add(rows)
    sheet.know(np.array(logits, dtype=np.float32))
    return sheet


def asked(sheet: ScoreSheet, *positions: int) -> list[int]:
    return sheet.to_ask(np.array(positions)).tolist()


def test_of_equal_rows_the_first_is_asked_for_and_all_get_its_score() -> None:
    sheet = sheet_of(7, 8, 7, 7)

    assert asked(sheet, 0, 1, 2, 3) == [0, 1]
    sheet.write(np.array([1, 0]), np.array([0.5, 3.0], dtype=np.float32))

    assert sheet.logits.tolist() == [3.0, 0.5, 3.0, 3.0]
    assert sheet.is_duplicate.tolist() == [False, False, True, True]
    assert asked(sheet, 0, 1, 2, 3) == []


def test_a_request_of_a_pack_is_asked_for_with_its_twin_in_another() -> None:
    sheet = sheet_of(7, 8, 7)

    assert asked(sheet, 2) == [0]


def test_scores_of_an_attempt_that_knew_no_duplicates_are_made_equal() -> None:
    sheet = sheet_of(7, 7, 8, logits=[1.0, 1.0000001, NAN])

    assert sheet.logits.tolist()[:2] == [1.0, 1.0]
    assert asked(sheet, 0, 1, 2) == [2]


def test_what_was_known_already_is_no_duplicate() -> None:
    sheet = sheet_of(7, 7, 8, 8, logits=[1.0, 1.0, NAN, NAN])

    assert (sheet.was_known.tolist(), sheet.is_duplicate.tolist()) == (
        [True, True, False, False],
        [False, False, False, True],
    )


def test_a_document_is_scored_when_all_its_windows_are() -> None:
    windows = [Span(0, 2, 0, 9), Span(1, 2, 8, 15)]
    spans = [None, *windows, *windows, None]
    rows = [
        Row(np.array([token], dtype=np.int32), False, document=0, span=span)
        for token, span in enumerate(spans)
    ]

    sheet = _sheet(rows, [1, 2, NAN, 3, 4, NAN])

    assert sheet.scored_documents == 2
    assert sheet.unscored_documents(np.array([0, 1, 2])) == 1


def test_of_rows_that_come_later_those_that_equal_earlier_ones_have_their_scores() -> None:
    sheet = sheet_of(7, 8)
    sheet.write(np.array([0]), np.array([3.0], dtype=np.float32))

    again, new = (Row(np.array([0, token], dtype=np.int32), truncated=False, document=0) for token in (7, 9))

    assert sheet.add([again, new]).tolist() == [3]
    assert sheet.logits[[0, 2]].tolist() == [3.0, 3.0]
    assert sheet.documents.tolist() == [1, 2, 3, 4]
