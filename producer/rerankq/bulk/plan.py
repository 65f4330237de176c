"""What a run is asked to do, and the parts that do it: reader, writer, the settings that its output depends on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rerankq.bulk.formats import (
    STANDARD_STREAM,
    FieldNames,
    Format,
    field_names,
    input_format,
    output_format,
)
from rerankq.bulk.readers import Reader
from rerankq.bulk.readers.columns import Columns
from rerankq.bulk.readers.json_lines import BatchLines, JsonLines, RankLlmLines
from rerankq.bulk.readers.table import LongTable
from rerankq.bulk.readers.trec import TrecRun
from rerankq.bulk.source import Source
from rerankq.bulk.writers import Writer
from rerankq.bulk.writers import json_lines as write_json
from rerankq.bulk.writers.table import LongTable as WriteLongTable
from rerankq.bulk.writers.trec import TrecRun as WriteTrecRun
from rerankq.contract.errors import InvalidRequest

DELIMITERS: dict[Format, str] = {"csv": ",", "tsv": "\t"}
_GATHERED: tuple[Format, ...] = ("parquet", "arrow")


@dataclass(frozen=True, slots=True)
class Task:
    """What the command line or a program asks for."""

    input: str
    output: str
    format: str | None = None
    output_format: str | None = None
    names: Mapping[str, str | None] = field(default_factory=dict[str, str | None])
    """What the input calls the fields of `FieldNames`, where it is not the usual."""
    queries: str | None = None
    corpus: str | None = None
    qrels: str | None = None
    depth: int | None = None
    """Candidates per query of a TREC run; all when absent."""
    is_ordered: bool = True
    with_documents: bool = False
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """Fields of `RerankRequest` for every row that does not set them itself."""
    pack_pairs: int | None = None


class Plan:
    """A task with its files opened and its formats known."""

    def __init__(self, task: Task) -> None:
        """
        Raises:
            InvalidRequest: a file is missing or its format cannot be told.
        """
        self.task = task
        self.source: Source | None = None
        self.read_as = self._input_format()
        self._names = field_names(self.read_as, task.names)
        self.write_as = output_format(task.output, self.read_as, task.output_format)
        self._reader = self._open()
        self._refuse_what_cannot_be()

    def reader(self) -> Reader:
        """The input's reader."""
        return self._reader

    def retry_reader(self, path: Path) -> Reader:
        """A reader of an errors file: lines in the input's own form, or our own where that is no line format."""
        source = Source(str(path))
        if self.read_as == "openai-batch":
            return BatchLines(source, self._names)
        if self.read_as == "rank-llm":
            return RankLlmLines(source, self._names)
        own_names = self.read_as in ("csv", "tsv", "trec")
        return JsonLines(source, FieldNames() if own_names else self._names)

    def writer(self) -> Writer:
        """The output's writer; for Parquet and Arrow that of the lines gathered for it."""
        with_documents = self.task.with_documents
        if self.write_as == "openai-batch":
            return write_json.BatchLines()
        if self.write_as == "rank-llm":
            return write_json.RankLlmLines()
        if self.write_as == "trec":
            return WriteTrecRun()
        if self.write_as in DELIMITERS:
            further = self._reader.further_columns() if isinstance(self._reader, LongTable) else ()
            return WriteLongTable(DELIMITERS[self.write_as], further, with_documents=with_documents)
        return write_json.JsonLines(with_documents=with_documents)

    @property
    def is_gathered(self) -> bool:
        """Whether lines are gathered first, because the output's format cannot be appended to."""
        return self.write_as in _GATHERED

    @property
    def is_stream(self) -> bool:
        """Whether the output is standard output."""
        return self.task.output == STANDARD_STREAM

    @property
    def lines_path(self) -> Path:
        """Where lines are appended."""
        out = Path(self.task.output)
        return out.with_name(f"{out.name}.rerankq.lines.jsonl") if self.is_gathered else out

    def settings(self) -> dict[str, Any]:
        """What the output depends on, besides input and model."""
        task = self.task
        return {
            "format": self.read_as,
            "output format": self.write_as,
            "fields": ",".join(getattr(self._names, name) for name in FieldNames.__slots__),
            "order": "input" if task.is_ordered else "completion",
            "depth": task.depth,
            "documents in the output": task.with_documents,
            **{
                name: task.options.get(name)
                for name in ("top_n", "max_tokens_per_doc", "truncation", "raw_scores")
            },
        }

    def _input_format(self) -> Format:
        task = self.task
        if task.format is None and task.input.endswith((".parquet", ".arrow", ".feather")):
            return input_format(task.input, None, None)
        if task.format in _GATHERED:
            return input_format(task.input, None, task.format)
        self.source = Source(task.input)
        return input_format(task.input, self.source.first_line(), task.format)

    def _open(self) -> Reader:
        task, read_as = self.task, self.read_as
        if read_as == "parquet" or read_as == "arrow":
            return Columns(task.input, self._names, read_as)
        source = self.source or Source(task.input)
        if read_as == "trec":
            return self._open_trec(source)
        if read_as in DELIMITERS:
            return LongTable(source, self._names, DELIMITERS[read_as])
        readers = {"jsonl": JsonLines, "openai-batch": BatchLines, "rank-llm": RankLlmLines}
        return readers[read_as](source, self._names)

    def _open_trec(self, run: Source) -> Reader:
        task = self.task
        if task.queries is None or task.corpus is None:
            raise InvalidRequest(
                "a TREC run has ids only; name the texts with --queries queries.jsonl --corpus corpus.jsonl",
                {"field": "queries"},
            )
        return TrecRun(run, Source(task.queries), Source(task.corpus), task.depth)

    def _refuse_what_cannot_be(self) -> None:
        if self.is_stream and self.is_gathered:
            raise InvalidRequest(
                f"{self.write_as} cannot be written to a pipe; name a file", {"field": "output"}
            )
        if self.write_as == "rank-llm" and self.read_as != "rank-llm":
            raise InvalidRequest(
                "rank-llm lines can only be written from rank-llm lines", {"field": "output-format"}
            )
        if not self.is_stream and not Path(self.task.output).parent.is_dir():
            raise InvalidRequest(
                f"there is no directory {Path(self.task.output).parent}", {"field": "output"}
            )
