"""What a path's name tells, what an input calls its fields, what an output shows. Opens nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from rerankq.bulk.task import Task

Compression = Literal["gz", "zst"]
_COMPRESSED: Mapping[str, Compression] = {".gz": "gz", ".zst": "zst"}

_KEPT = ("id", "row", "query_id", "complete")

SIDECAR_SUFFIX = ".rerankq.json"


Names = Sequence[str]
"""What a field may be called: the first that is there is taken. A single one was named by the caller."""


@dataclass(frozen=True, slots=True)
class FieldNames:
    """What the input calls its fields, each by its usual name first. Paths, as `formats.fields` reads them."""

    query: Names = ("query", "query_text", "question", "anchor", "text_1", "queries")
    documents: Names = (
        *("documents", "positive,negative", "pos,neg"),
        *("passages", "docs", "texts", "candidates", "hits", "text_2", "ctxs"),
        *("positive_passages,negative_passages", "positive_ctxs,negative_ctxs,hard_negative_ctxs"),
    )
    id: Names = ("id", "query_id", "qid", "_id")
    """In CSV and TSV the column whose equal neighbours make one request."""
    text: Names = (
        *("text", "passage", "document", "contents", "content"),
        *("segment", "body", "passage_text", "page_content"),
    )
    document_id: Names = ("id", "_id", "pid", "passage_id", "docid", "doc_id", "document_id")
    """Of a document that is an object; in CSV and TSV the column."""
    relevant: Names = ("relevant", "positive", "pos", "positive_passages", "positive_ctxs")
    """Where the judgements are; the further ones only where the documents come from them."""

    def renamed(self, given: Mapping[str, str | None]) -> Self:
        """These names, some of them as the caller has them."""
        return replace(self, **{name: (new,) for name, new in given.items() if new is not None})


USUAL_NAMES = FieldNames()
RELEVANT_KEY = USUAL_NAMES.relevant[0]
TABLE_NAMES = FieldNames(
    id=("query_id", "qid"), document_id=("doc_id", "pid", "passage_id", "docid", "document_id")
)


@dataclass(frozen=True, slots=True)
class Shown:
    """Which keys or columns an output has: all, or those that are named, in their order, or all but some."""

    names: tuple[str, ...] = ()
    left_out: frozenset[str] = frozenset()

    @classmethod
    def of(cls, names: Sequence[str]) -> "Shown":
        """`a`, `b` and no others; `-a` is left out."""
        left_out = {name[1:] for name in names if name.startswith("-")}
        return cls(
            tuple(dict.fromkeys(name for name in names if not name.startswith("-"))),
            frozenset(left_out | {"row"} if "id" in left_out else left_out),
        )

    def among(self, there: Sequence[str]) -> list[str]:
        """Of those that are there the ones that are shown; by which a row is known stays in front unless left out."""
        asked = self.names or there
        kept = [name for name in there if name in _KEPT and name not in asked]
        return [name for name in (*kept, *asked) if name in there and name not in self.left_out]


@dataclass(frozen=True, slots=True)
class Layout:
    """What an output shows besides its rankings."""

    task: Task
    further_columns: Sequence[str] | None
    """What a table's lines carried; None where what rows carry is not known beforehand."""
    shown: Shown


def in_utf8(path: str) -> str:
    """A path as text that JSON can hold: names of Linux are bytes of any kind."""
    return path.encode(errors="backslashreplace").decode()


def extension_of(path: str) -> str:
    """The extension below any compression: `.jsonl` for `jobs.jsonl.gz`."""
    first = path.partition("::")[0]  # of a chain, `zip://in.jsonl::s3://bucket/archive.zip`
    name = (first if "://" in first else path).partition("?")[0] if "://" in path else path
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def compression_of(path: str) -> Compression | None:
    """How a path says it is compressed."""
    return _COMPRESSED.get(Path(path).suffix.lower())
