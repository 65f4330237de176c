"""What a path's name tells, what an input calls its fields, what an output shows. Opens nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

Compression = Literal["gz", "zst"]
_COMPRESSED: Mapping[str, Compression] = {".gz": "gz", ".zst": "zst"}


@dataclass(frozen=True, slots=True)
class FieldNames:
    """What the input calls its fields."""

    query: str = "query"
    documents: str = "documents"
    id: str = "id"
    """In CSV and TSV the column whose equal neighbours make one request."""
    text: str = "text"
    document_id: str = "id"
    """Of a document that is an object; in CSV and TSV the column."""

    def renamed(self, given: Mapping[str, str | None]) -> Self:
        """These names, some of them as the caller has them."""
        return replace(self, **{name: new for name, new in given.items() if new is not None})


USUAL_NAMES = FieldNames()
TABLE_NAMES = FieldNames(id="query_id", document_id="doc_id")


@dataclass(frozen=True, slots=True)
class Layout:
    """What an output shows besides its rankings."""

    further_columns: Sequence[str] | None = None
    """What a table's lines carried; None where what rows carry is not known beforehand."""
    with_documents: bool = False
    delimiter: str | None = None
    is_quoted: bool | None = None


def extension_of(path: str) -> str:
    """The extension below any compression: `.jsonl` for `jobs.jsonl.gz`."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def compression_of(path: str) -> Compression | None:
    """How a path says it is compressed."""
    return _COMPRESSED.get(Path(path).suffix)
