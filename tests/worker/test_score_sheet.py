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
    return ScoreSheet.of(rows, np.array(logits or [NAN] * len(rows), dtype=np.float32))


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

    sheet = ScoreSheet.of(rows, np.array([1, 2, NAN, 3, 4, NAN], dtype=np.float32))

    assert sheet.scored_documents == 2
    assert sheet.unscored_documents(np.array([0, 1, 2])) == 1
