"""What a ranking looks like on a terminal."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from rerankq.cli.screen import (
    fitted_table,
    incomplete_line,
    milliseconds,
    print_table,
    ranking_table,
    timings_line,
)
from rerankq.contract.messages import ModelInfo, RankedDocument, Ranking, Timings, Usage, WorkerInfo

WIDTH = 60
CELLS = [["a-job-of-a-long-name", "2026", "docs=3", "why it failed, in full"]]
HEADINGS = ("job", "when", "asked", "reason")


def ranking(*results: RankedDocument, total: int | None = None) -> Ranking:
    scored = sum(result.scored for result in results)
    return Ranking(
        id="job",
        model=ModelInfo(name="small", revision="0123456789abcdef"),
        results=list(results),
        complete=scored == len(results),
        scored=scored,
        total=total or len(results),
        usage=Usage(pairs=scored, tokens=42),
        timings=Timings(queued_seconds=0.002, tokenize_seconds=0.0005, score_seconds=0.25),
        worker=WorkerInfo(name="cpu0-interactive@here", device="cpu", dtype="fp32"),
    )


def result(index: int, score: float | None = 0.5, **fields: object) -> RankedDocument:
    return RankedDocument.model_validate(
        {"index": index, "relevance_score": score, "logit": score, "truncated": False, **fields}
    )


def drawn(renderable: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=WIDTH, force_terminal=False)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_results_stand_best_first_with_the_place_they_came_from() -> None:
    lines = drawn(ranking_table(ranking(result(1, 0.9), result(0, 0.1)), ["first", "second"])).splitlines()

    assert lines[-2].split() == ["1", "0.9000", "second", "2", "↑1"]
    assert lines[-1].split() == ["2", "0.1000", "first", "1", "↓1"]


def test_a_long_chinese_text_is_cut_to_the_width_it_takes_on_screen() -> None:
    text = "中国的首都是北京，" * 20

    lines = drawn(ranking_table(ranking(result(0)), [text])).splitlines()

    assert max(map(cell_len, lines)) <= WIDTH
    assert "…" in lines[-1]


def test_a_document_cannot_drive_the_terminal() -> None:
    shown = drawn(ranking_table(ranking(result(0)), ["a\x1b[31mb\x07\nc\u202ed [bold]e[/bold]"]))

    assert not set(shown) & {"\x1b", "\x07", "\u202e"}
    assert "[bold]e[/bold]" in shown


def test_a_document_that_was_read_in_part_is_marked() -> None:
    assert "✂ long" in drawn(ranking_table(ranking(result(0, truncated=True)), ["long"]))


def test_of_a_document_in_windows_the_best_is_shown() -> None:
    best = result(0, id="report", window={"index": 1, "total": 3, "start": 6, "end": 12})

    assert "[report] 2/3 middle" in drawn(ranking_table(ranking(best), ["begin middle end"]))


def test_a_document_that_was_not_scored_gets_no_invented_score() -> None:
    partial = ranking(result(0, 0.7), result(1, None))

    assert "unscored" in drawn(ranking_table(partial, ["one", "two"])).splitlines()[-1]
    assert "1 of 2" in str(incomplete_line(partial))


def test_without_the_texts_a_document_is_shown_by_its_number_and_its_own_id() -> None:
    shown = drawn(ranking_table(ranking(result(4, id="page-5")), None))

    assert "[page-5] #5" in shown


def test_the_timings_line_says_where_the_time_went_on_what_with_which_weights() -> None:
    line = str(timings_line(ranking(result(0))))

    assert line == (
        "queue 2.0 ms · tokenize 0.5 ms · score 250 ms · 1 pairs, 42 tokens · cpu fp32 · model small 0123456789ab"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(0.0042, "4.2 ms", id="short"),
        pytest.param(0.25, "250 ms", id="middle"),
        pytest.param(1.5, "1.50 s", id="long"),
    ],
)
def test_a_duration_is_shown_in_its_own_unit(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text


@pytest.mark.parametrize(
    ("columns", "shown"),
    [(80, HEADINGS), (57, ("job", "when", "reason")), (48, ("job", "reason")), (20, ("job", "reason"))],
)
def test_a_narrow_terminal_goes_without_columns_and_cuts_no_cell(
    columns: int, shown: tuple[str, ...]
) -> None:
    console = Console(file=io.StringIO(), width=columns)
    console.print(fitted_table(HEADINGS, CELLS, ("asked", "when"), columns))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()

    assert tuple(text.split("\n")[0].split()) == shown
    assert "…" not in text
    letters = "".join(text.split())
    assert all(letter in letters for letter in "a-job-ofin full".replace(" ", ""))


def test_in_a_pipe_every_cell_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 30_000

    print_table(("job", "reason"), [["a", long]])

    assert long in capsys.readouterr().out
