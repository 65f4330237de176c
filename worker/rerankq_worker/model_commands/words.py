"""Numbers and tables as people read them; no line is ever cut."""

from collections.abc import Sequence

THOUSAND = 1000


def in_bytes(size: float) -> str:
    """2271000000 as `2.3 GB`."""
    for unit in ("B", "kB", "MB"):
        if size < THOUSAND:
            return f"{size:.0f} {unit}"
        size /= THOUSAND
    return f"{size:.1f} GB"


def in_millions(number: int) -> str:
    """567755777 as `567.8 M`."""
    return f"{number / 1e6:,.1f} M" if number >= THOUSAND**2 else f"{number:,}"


def short(revision: str) -> str:
    """Enough of a commit to know it by; a fingerprint is short already."""
    return revision if ":" in revision else revision[:12]


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as what is in them; the last may be of any length."""
    lines = [headings, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(headings))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
