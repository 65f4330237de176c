"""Which file format a path is in, and what its fields are called."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from rerankq.contract.errors import InvalidRequest

Format = Literal["jsonl", "openai-batch", "rank-llm", "csv", "tsv", "parquet", "arrow", "trec"]
FORMATS: tuple[Format, ...] = get_args(Format)
STANDARD_STREAM = "-"

_BY_EXTENSION: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".trec": "trec",
    ".run": "trec",
}
_COMPRESSED = (".gz", ".zst")


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


TABLE_NAMES = FieldNames(id="query_id", document_id="doc_id")


def field_names(read_as: Format, renamed: Mapping[str, str | None]) -> FieldNames:
    """The names of a format's fields, some of them as the caller has them."""
    usual = TABLE_NAMES if read_as in ("csv", "tsv") else FieldNames()
    return replace(usual, **{name: given for name, given in renamed.items() if given is not None})


def format_of(path: str) -> Format | None:
    """The format that a path's extension tells; None for one that tells nothing."""
    return _BY_EXTENSION.get(extension_of(path))


def extension_of(path: str) -> str:
    """The extension below any compression: `.jsonl` for `jobs.jsonl.gz`."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def compression_of(path: str) -> Literal["gz", "zst"] | None:
    """How a path says it is compressed."""
    if path.endswith(".gz"):
        return "gz"
    return "zst" if path.endswith(".zst") else None


def input_format(path: str, first_line: bytes | None, asked: str | None) -> Format:
    """The format to read in: as asked, else by extension, JSON lines told apart by the first one.

    Raises:
        InvalidRequest: neither tells.
    """
    if asked is not None:
        return known_format(asked)
    told = "jsonl" if path == STANDARD_STREAM else format_of(path)
    if told is None:
        raise InvalidRequest(
            f"the format of {path} cannot be told from its extension; name it with --format ({', '.join(FORMATS)})",
            {"field": "format"},
        )
    return _family(first_line) if told == "jsonl" else told


def output_format(path: str, read_as: Format, asked: str | None) -> Format:
    """The format to write: as asked, else by extension, else the one that was read.

    JSON lines stay in the family they came in: batch lines are answered with batch lines.
    """
    if asked is not None:
        return known_format(asked)
    families: tuple[Format, ...] = ("openai-batch", "rank-llm")
    told = None if path == STANDARD_STREAM else format_of(path)
    if told == "jsonl" and read_as in families:
        return read_as
    if told is not None:
        return told
    return "jsonl" if read_as in ("parquet", "arrow") else read_as


def known_format(name: str) -> Format:
    """The format of that name.

    Raises:
        InvalidRequest: there is none.
    """
    for known in FORMATS:
        if known == name:
            return known
    raise InvalidRequest(f"expected a format of {', '.join(FORMATS)}, got {name}", {"field": "format"})


def _family(first_line: bytes | None) -> Format:
    from rerankq.contract import wire

    try:
        fields = wire.decode(first_line or b"")
    except ValueError:
        return "jsonl"
    if not isinstance(fields, dict):
        return "jsonl"
    if "custom_id" in fields and "body" in fields:
        return "openai-batch"
    return "rank-llm" if "candidates" in fields and isinstance(fields.get("query"), dict) else "jsonl"
