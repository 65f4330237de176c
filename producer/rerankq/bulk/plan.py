"""The parts that do a task: reader, writer, the settings that its output depends on; and what is no task at all."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, product
from pathlib import Path
from typing import Any

from rerankq.bulk import STANDARD_STREAM
from rerankq.bulk.evaluate import Evaluator
from rerankq.bulk.formats import Reader, Writer, errors_reader, input_format, output_format, types_of
from rerankq.bulk.formats.inputs import Given, Identity, Input, is_same_file
from rerankq.bulk.formats.names import USUAL_NAMES, Layout, Shown, compression_of
from rerankq.bulk.formats.remote import files_through, is_remote
from rerankq.bulk.formats.shards import files_of
from rerankq.bulk.output.ledger import gathered_path, written_paths
from rerankq.bulk.output.streams import STDOUT, is_stream
from rerankq.bulk.output.totals import Quality
from rerankq.bulk.rows import InputRow, may_leave_out
from rerankq.bulk.selection import Selection, once_seen
from rerankq.bulk.task import Task
from rerankq.contract.errors import InvalidRequest
from rerankq.contract.messages import OPTIONS_SINCE_VERSION_2, parse_request

_TABLES, _RUNS = ("csv", "tsv"), ("trec",)
_OPTIONS = ("top_n", "max_tokens_per_doc", "truncation", "raw_scores", *OPTIONS_SINCE_VERSION_2)
_FIELDS = ("query", "documents", "id", "text", "document_id")


class Plan:
    """A task with its files opened and its formats known."""

    def __init__(self, task: Task) -> None:
        self.task = task
        parse_request({"query": "any", "documents": ["any"], **task.options})  # else it would fail row by row
        self.selection = Selection.of(task.where, task.skip, task.limit, task.shard)
        self._refuse_no_place_to_write()
        self._refuse_reading_what_is_written()
        self.input = Input(task.input, task.encoding)
        self.read_as = input_format(self.input, task.format, task.names)
        self.write_as = output_format(task.output, self.read_as, task.output_format, is_stream=self.is_stream)
        self._given = Given(self.input, self.read_as.names.renamed(task.names), task)
        self.reader = self.read_as.reader(self._given)
        self._layout = Layout(task, self.reader.further_columns(), Shown.of(task.output_columns))
        self._refuse_what_cannot_be()

    def identities(self, *, is_whole: bool = False) -> list[Identity]:
        """Of every file that is read."""
        inputs = self.reader.inputs()
        return [one for input_ in inputs for one in input_.identities(is_whole=is_whole)]

    def retry_reader(self, path: Path) -> Reader:
        """A reader of an errors file."""
        return errors_reader(self.read_as, replace(self._given, input=Input(str(path))))

    def writer(self) -> Writer:
        """The output's writer; for Parquet and Arrow that of the lines gathered for it, which have all."""
        return self.write_as.writer(replace(self._layout, shown=Shown()) if self.gather else self._layout)

    def rows(self, start: int = 0) -> Iterator[InputRow]:
        """The rows that are asked, from the start-th of them on."""
        rows = self.selection.rows(self.reader, start)
        names = self.write_as.columns
        if names is None or start > 0:
            return rows
        layout = self._layout
        sought = (*layout.shown.names, *layout.shown.left_out)
        return once_seen(
            rows, sought, lambda row: [] if row.error else [dict.fromkeys(names(row, layout), "")]
        )

    def quality_of_output(self, evaluator: Evaluator) -> Quality:
        """By judgements that came only after it was written."""
        written = Given(Input(self.task.output), self._given.names, self.task)
        is_cut = may_leave_out(self.task.options)
        return evaluator.quality_of_file(written, self.write_as, self.read_as, is_cut=is_cut)

    @property
    def gather(self) -> Callable[[Path, Path], None] | None:
        """Makes the output of the lines gathered for it, where its format cannot be appended to."""
        gather = self.write_as.gather
        if gather is None:
            return None
        return lambda lines, out: gather(lines, out, types_of(self.reader), self._layout.shown)

    @property
    def is_stream(self) -> bool:
        """Whether the output cannot be gone back to: standard output, a pipe, a device."""
        return is_stream(self.task.output)

    @property
    def lines_path(self) -> Path:
        """Where lines are appended."""
        out = Path(self.task.output)
        return gathered_path(out) if self.gather else out

    def settings(self) -> dict[str, Any]:
        """What the output depends on, besides input and model."""
        task, names = self.task, self._given.names
        relevant = names.relevant[0]
        usual = {
            "judgements' field": None if relevant == USUAL_NAMES.relevant[0] else relevant,
            "skips missing documents": task.skips_missing or None,
            "delimiter": task.delimiter,
            "quotes": task.is_quoted,
            "columns": None if task.columns is None else ",".join(task.columns),
            "encoding": None if task.encoding == "utf-8" else task.encoding,
            "where": list(task.where) or None,
            "skip": task.skip or None,
            "limit": task.limit,
            "shard": task.shard,
            "output columns": ",".join(task.output_columns) or None,
        }
        return {
            "format": self.read_as.name,
            "output format": self.write_as.name,
            "fields": ",".join(_in_one_word(getattr(names, name)[0]) for name in _FIELDS),
            "order": "input" if task.is_ordered else "completion",
            "depth": task.depth,
            **{name: value for name, value in usual.items() if value is not None},
            "documents in the output": task.with_documents,
            **{name: task.options.get(name) for name in _OPTIONS},
        }

    def rows_total(self) -> int | None:
        """How many rows will be asked, where that is quickly counted."""
        return self.selection.total(self.input.lines_if_small() if self.read_as.is_json_lines else None)

    def _refuse_reading_what_is_written(self) -> None:
        """By inode: the same file under another name, through a link, or as standard input, is the same file."""
        out = self.task.output
        beside = [Path(path) for path in self.task.also_written if path != STANDARD_STREAM]
        own = (
            [Path(STDOUT if out == STANDARD_STREAM else out)] if self.is_stream else written_paths(Path(out))
        )
        named = chain.from_iterable(map(files_of, self.task.read_paths))
        for read, path in product(chain.from_iterable(map(files_through, named)), (*beside, *own)):
            if is_same_file(read, path):
                raise InvalidRequest(
                    f"{read} is to be read and would be written as {path}; name another OUT",
                    {"field": "output"},
                )
        for one, path in product(beside, [] if self.is_stream else own):
            if is_same_file(str(one), path):
                raise InvalidRequest(
                    f"{one} is written by the run itself, as {path}; name another file for its summary",
                    {"field": "summary-json"},
                )

    def _refuse_what_cannot_be(self) -> None:
        if self.is_stream and self.gather:
            raise InvalidRequest(
                f"{self.write_as.name} cannot be written to a pipe; name a file", {"field": "output"}
            )
        self._refuse_what_is_for_another_format()
        if self.write_as.name == "rank-llm" != self.read_as.name:
            raise InvalidRequest(
                "rank-llm lines can only be written from rank-llm lines", {"field": "output-format"}
            )
        if self.task.output_columns and self.write_as.columns is None:
            raise InvalidRequest(
                f"{self.write_as.name} has a form of its own; --output-columns is for JSON lines, tables and columns",
                {"field": "output-columns"},
            )
        if self.gather and compression_of(self.task.output):
            raise InvalidRequest(
                f"{self.write_as.name} is compressed within; leave the last extension of {self.task.output} out",
                {"field": "output"},
            )

    def _refuse_what_is_for_another_format(self) -> None:
        """What was asked for and would mean nothing is a misunderstanding: texts of a corpus, say, for a row's ids."""
        task, read_as, written_as = self.task, self.read_as.name, self.write_as.name
        asked: dict[str, tuple[bool, Sequence[str], Sequence[str]]] = {
            "columns": (task.columns is not None, _TABLES, (read_as,)),
            "delimiter": (task.delimiter is not None, _TABLES, (read_as, written_as)),
            "quote": (task.is_quoted is not None, _TABLES, (read_as, written_as)),
            "queries": (task.queries is not None, _RUNS, (read_as,)),
            "corpus": (task.corpus is not None, _RUNS, (read_as,)),
            "depth": (task.depth is not None, _RUNS, (read_as,)),
            "missing": (task.skips_missing, _RUNS, (read_as,)),
        }
        for option, (is_asked, meant, there) in asked.items():
            if is_asked and not set(meant) & set(there):
                raise InvalidRequest(
                    f"--{option} is for {' or '.join(meant)}, {task.input} is read as {read_as}; leave it out, or "
                    "--format says how it is read",
                    {"field": option},
                )

    def _refuse_no_place_to_write(self) -> None:
        if is_remote(self.task.output):
            raise InvalidRequest(
                f"expected a path of this machine for OUT, got {self.task.output}, which cannot be appended to; write "
                "here and copy it when it is done",
                {"field": "output"},
            )
        for path in (self.task.output, *self.task.also_written):
            if Path(path).is_dir():
                raise InvalidRequest(f"{path} is a directory; name a file in it", {"field": "output"})
            if not is_stream(path) and not Path(path).parent.is_dir():
                raise InvalidRequest(f"there is no directory {Path(path).parent}", {"field": "output"})


def _in_one_word(name: str) -> str:
    return f"({name})" if "," in name else name
