"""How things look on a terminal. Knows rankings; starts nothing."""

import unicodedata
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rerankq.contract.messages import RankedDocument, Ranking

_REVISION_CHARACTERS = 12
_SHOWN_CHARACTERS = 2_000
_ENDLESS_COLUMNS = 1_000_000
_CONTROLS = ("Cc", "Cf", "Zl", "Zp")

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@contextmanager
def progress() -> Generator[Callable[[str], None]]:
    """A function that shows one line on stderr, in place; where stderr is no terminal, nothing."""
    with err.status("") as status:
        yield lambda line: status.update(line)


def ranking_table(ranking: Ranking, texts: Sequence[str] | None) -> Table:
    """Best first: rank, score, text, where it stood before.

    Args:
        texts: the documents in the caller's order; None where only the worker has seen them.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("rank", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True, style="bold")
    table.add_column("text" if texts is not None else "document")  # the one that gives way to the width
    table.add_column("before", no_wrap=True)
    for rank, result in enumerate(ranking.results, start=1):
        table.add_row(str(rank), _score(result), _document(result, texts), _move(rank, result))
    return table


def numbered(texts: Sequence[str]) -> Table:
    """The documents as they came."""
    table = Table.grid(padding=(0, 1))
    table.add_column(justify="right", style="dim")
    table.add_column()
    for place, text in enumerate(texts, start=1):
        table.add_row(str(place), _printable(text))
    return table


def timings_line(ranking: Ranking) -> Text:
    """Where the time went, on what, with which weights."""
    timings, worker, model = ranking.timings, ranking.worker, ranking.model
    parts = [
        f"queue {milliseconds(timings.queued_seconds)}",
        f"tokenize {milliseconds(timings.tokenize_seconds)}",
        f"score {milliseconds(timings.score_seconds)}",
        f"{ranking.usage.pairs} pairs, {ranking.usage.tokens} tokens",
        f"{worker.device} {worker.dtype}",
        f"model {model.name} {short(model.revision)}",
    ]
    return Text(" · ".join(parts), style="dim", overflow="fold")


def incomplete_line(ranking: Ranking) -> Text | None:
    """What a partial ranking lacks."""
    if ranking.complete:
        return None
    return Text(
        f"partial: {ranking.scored} of {ranking.total} documents were scored before the deadline",
        style="yellow",
    )


def milliseconds(seconds: float) -> str:
    """0.0042 as `4.2 ms`, 1.5 as `1.50 s`."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def bytes_in_words(count: float) -> str:
    """1234567 as `1 MB`, 2345678901 as `2.3 GB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def short(revision: str) -> str:
    """Enough of a commit or a hash to know it by."""
    kind, colon, digits = revision.rpartition(":")
    return f"{kind}{colon}{digits[:_REVISION_CHARACTERS]}"


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str] = ()) -> None:
    """A table whose cells are whole, in a pipe with all its columns.

    Args:
        spare: headings of columns that a terminal too narrow for all goes without, from the first on.
    """
    if out.is_terminal:
        out.print(fitted_table(headings, rows, spare, out.width))
        return
    print_whole(_table(headings, rows))


def print_whole(drawn: Table | Text) -> None:
    """On a terminal in its width; in a pipe, which has none, without a cut."""
    if out.is_terminal:
        out.print(drawn)
    else:
        Console(highlight=False, width=max(_width(drawn), 1)).print(drawn)


def fitted_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str], columns: int
) -> Table:
    """The table with as many of its columns as so many characters hold; what is still too wide is folded, never cut."""
    shown = list(headings)
    table = _table(headings, rows)
    for heading in (each for each in spare if each in headings):
        if _width(table) <= columns:
            break
        shown.remove(heading)
        table = _table(shown, [[row[headings.index(name)] for name in shown] for row in rows])
    return table


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_harmless(cell), overflow="fold") for cell in row))
    return table


def _width(drawn: Table | Text) -> int:
    """The characters that its longest line takes where nothing is folded."""
    endless = out.options.update(width=_ENDLESS_COLUMNS)
    return Measurement.get(out, endless, drawn).maximum


def facts(told: Sequence[tuple[str, str]]) -> Text:
    """Name and value, line by line; a value is never cut. Print it with `soft_wrap`."""
    width = max(len(name) for name, _ in told)
    return Text("\n".join(f"{name:{width}}  {_harmless(value)}" for name, value in told))


def _score(result: RankedDocument) -> str:
    return "unscored" if result.relevance_score is None else f"{result.relevance_score:.4f}"


def _document(result: RankedDocument, texts: Sequence[str] | None) -> Text:
    name = f"[{result.id}] " if result.id else ""
    read, window = "" if texts is None else texts[result.index], result.window
    if window is not None:
        name += f"{window.index + 1}/{window.total} "
        read = read[window.start : window.end].lstrip()
    text = _printable(f"{name}{read}" if texts is not None else f"{name}#{result.index + 1}")
    return _one_line("✂ ", style="yellow").append(text) if result.truncated else text


def _move(rank: int, result: RankedDocument) -> Text:
    before = result.index + 1
    if before == rank:
        return Text(f"{before:>4} =", style="dim")
    arrow, style = ("↑", "green") if before > rank else ("↓", "red")
    return Text(f"{before:>4} {arrow}{abs(before - rank)}", style=style)


def _printable(text: str) -> Text:
    """On one line, cut where that ends; in a pipe, which has no end, whole."""
    return _one_line(_harmless(text[:_SHOWN_CHARACTERS] if out.is_terminal else text))


def _harmless(text: str) -> str:
    """Without the control characters by which a text could drive the terminal."""
    return "".join(" " if unicodedata.category(c) in _CONTROLS else c for c in text)


def _one_line(text: str, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
