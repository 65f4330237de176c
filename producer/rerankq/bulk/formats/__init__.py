"""The formats that bulk work reads and writes, one module each: a new one is a file and a line in `FORMATS`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rerankq.bulk.formats import columns, gathered, json_lines, table, trec
from rerankq.bulk.formats.gathered import Types
from rerankq.bulk.formats.inputs import Given, Input, InputFile
from rerankq.bulk.formats.interface import Reader, Writer
from rerankq.bulk.formats.names import TABLE_NAMES, USUAL_NAMES, FieldNames, Layout, Shown, extension_of
from rerankq.bulk.rows import InputRow, Ranked
from rerankq.contract import wire
from rerankq.contract.errors import InvalidRequest

_NAMELESS = ("/dev/", "/proc/")  # standard input and other descriptors, also with a file behind them


@dataclass(frozen=True, slots=True)
class Format:
    """One way in and out."""

    name: str
    extensions: tuple[str, ...]
    reader: Callable[[Given], Reader]
    writer: Callable[[Layout], Writer]
    """For a gathered format that of the lines."""
    ranked: Callable[[Given], Iterator[Ranked]]
    """The rankings of a file that was written here."""
    is_line: Callable[[Mapping[str, Any]], bool] | None = None
    """Whether a JSON line is one of this dialect; None for what is no JSON lines."""
    names: FieldNames = USUAL_NAMES
    errors_names: FieldNames | None = None
    """What the rows of the errors file call their fields, where that is not what the input calls them."""
    columns: Callable[[InputRow, Layout], Sequence[str]] | None = None
    """The names that an output can show of a row; None where its form is fixed."""
    gather: Callable[[Path, Path, Types, Shown], None] | None = None
    """Turns the lines gathered at the first path into the file at the second: such a file cannot be appended to."""
    long_form: str | None = None
    """The format of such a file that has a row per document rather than one per request."""
    schema: Callable[[InputFile], Any] | None = None
    """Names and types of a file's columns, by which the two are told apart."""

    @property
    def is_json_lines(self) -> bool:
        """Whether a row is a line of JSON, and can be given back as one."""
        return self.is_line is not None

    @property
    def is_by_document(self) -> bool:
        """Whether it is the long form, a row per document."""
        return self.names is TABLE_NAMES


def _ranked(
    understood: Callable[[Mapping[str, Any], FieldNames], Ranked],
) -> Callable[[Given], Iterator[Ranked]]:
    return partial(json_lines.ranked_lines, understood=understood)


_JSONL = Format(
    "jsonl",
    (".jsonl", ".ndjson", ".json"),
    json_lines.JsonLinesReader,
    json_lines.JsonLinesWriter,
    _ranked(json_lines.ranked_row),
    is_line=lambda _: True,
    columns=json_lines.keys_of,
)


def _table(name: str, delimiter: str, *, is_quoted: bool) -> Format:
    reader = partial(table.TableReader, delimiter=delimiter, is_quoted=is_quoted)
    writer = partial(table.TableWriter, delimiter=delimiter, is_quoted=is_quoted)
    ranked = partial(table.ranked_table, delimiter=delimiter, is_quoted=is_quoted)
    return Format(
        name,
        (f".{name}",),
        reader,
        writer,
        ranked,
        names=TABLE_NAMES,
        errors_names=USUAL_NAMES,
        columns=table.columns_of,
    )


def _columns(
    name: str, extensions: tuple[str, ...], reader: type[columns.ColumnsReader], gather: Callable[..., None]
) -> tuple[Format, Format]:
    """A format of columns, and its long form."""
    ranked = partial(columns.ranked_columns, reader=reader)
    wide = Format(
        name,
        extensions,
        reader,
        _JSONL.writer,
        ranked,
        columns=json_lines.keys_of,
        gather=partial(gather, is_long=False),
        long_form=f"long-{name}",
        schema=reader.schema,
    )
    long = Format(
        f"long-{name}",
        (),
        partial(reader, is_long=True),
        _JSONL.writer,
        ranked,
        names=TABLE_NAMES,
        errors_names=USUAL_NAMES,
        columns=gathered.columns_of_documents,
        gather=partial(gather, is_long=True),
    )
    return wide, long


# The dialects of JSON lines stand before `jsonl`, which takes every line.
FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        Format("openai-batch", (), json_lines.BatchReader, json_lines.BatchWriter,
               _ranked(json_lines.ranked_batch), json_lines.is_batch),
        Format("rank-llm", (), json_lines.RankLlmReader, json_lines.RankLlmWriter,
               json_lines.ranked_candidates, json_lines.is_rank_llm),
        _JSONL,
        _table("csv", ",", is_quoted=True),
        _table("tsv", "\t", is_quoted=False),
        *_columns("parquet", (".parquet",), columns.ParquetReader, gathered.write_parquet),
        *_columns("arrow", (".arrow", ".feather"), columns.ArrowReader, gathered.write_arrow),
        Format("trec", (".trec", ".run"), trec.TrecReader, trec.TrecWriter, trec.ranked_run,
               errors_names=USUAL_NAMES),
    )
}  # fmt: skip


def input_format(input_: Input, asked: str | None, names: Mapping[str, str | None] | None = None) -> Format:
    """The format to read in: as asked, else by extension, JSON lines told apart by the first one, columns by theirs.

    Raises:
        InvalidRequest: neither tells, or there are files of several formats.
    """
    if asked is not None:
        return _in_its_form(known_format(asked), input_, names or {})
    told = {_of_part(part): part.path for part in reversed(input_.parts)}
    if len(told) > 1:
        raise InvalidRequest(
            f"{input_.path} has files of several formats, as {' and '.join(sorted(told.values())[:2])}; "
            "name those of one by a glob, as 'part-*.jsonl'",
            {"field": "input"},
        )
    [format_] = told
    return _dialect(input_.first_line()) if format_ is _JSONL else _in_its_form(format_, input_, names or {})


def output_format(path: str, read_as: Format, asked: str | None, *, is_stream: bool) -> Format:
    """The format to write: as asked, else by extension; of a stream without one, as the input.

    JSON lines stay in the dialect they came in: batch lines are answered with batch lines.

    Raises:
        InvalidRequest: neither tells.
    """
    if asked is not None:
        return known_format(asked)
    told = _by_extension(path)
    if told is None and not is_stream:
        known = ", ".join(extension for one in FORMATS.values() for extension in one.extensions)
        raise InvalidRequest(
            f"the format of {path} cannot be told from its extension; known are {known} (and .gz or .zst behind them), "
            f"or name it with --output-format ({', '.join(FORMATS)})",
            {"field": "output"},
        )
    if told is None:
        return _JSONL if read_as.gather else read_as
    if told.long_form is not None and read_as.is_by_document:
        return FORMATS[told.long_form]
    return read_as if told is _JSONL and read_as.is_json_lines else told


def types_of(reader: Reader) -> Types:
    """The types that an input of columns has told of what is carried; of any other none."""
    types = reader.types() if isinstance(reader, columns.ColumnsReader) else Types()
    return replace(types, are_by_document=reader.further_columns() is not None)


def known_format(name: str) -> Format:
    """The format of that name; one that there is none of is refused."""
    if name not in FORMATS:
        raise InvalidRequest(f"expected a format of {', '.join(FORMATS)}, got {name}", {"field": "format"})
    return FORMATS[name]


def errors_reader(read_as: Format, given: Given) -> Reader:
    """A reader of the errors file of an input in that format: lines in its own form, or our own where it has none."""
    format_ = read_as if read_as.is_json_lines else _JSONL
    return format_.reader(replace(given, names=read_as.errors_names or given.names))


def _by_extension(path: str) -> Format | None:
    extension = extension_of(path)
    return next((one for one in FORMATS.values() if extension in one.extensions), None)


def _of_part(part: InputFile) -> Format:
    is_nameless = part.is_pipe or part.path.startswith(_NAMELESS)
    told = _by_extension(part.path) or (_JSONL if is_nameless else None)
    if told is None:
        raise InvalidRequest(
            f"the format of {part.path} cannot be told from its extension; name it with --format "
            f"({', '.join(FORMATS)}), or by a glob the files that are meant",
            {"field": "format"},
        )
    return told


def _in_its_form(told: Format, input_: Input, names: Mapping[str, str | None]) -> Format:
    """The format, or its long form where the columns are that form's."""
    if told.schema and told.long_form and columns.is_long(input_, names, told.schema):
        return FORMATS[told.long_form]
    return told


def _dialect(first_line: bytes | None) -> Format:
    try:
        fields = wire.decode(first_line or b"")
    except ValueError:
        return _JSONL
    if not isinstance(fields, dict):
        return _JSONL
    return next(one for one in FORMATS.values() if one.is_line is not None and one.is_line(fields))
