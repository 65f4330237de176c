"""A TREC run to rerank, with the texts of its queries and corpus; and a run as the answer."""

from collections.abc import Iterator
from ctypes import c_float
from functools import partial
from itertools import groupby
from typing import Any

from rerankq.bulk.formats.inputs import Given, Input
from rerankq.bulk.formats.interface import Reader, Writer
from rerankq.bulk.formats.on_disk import SeenIds, TextsById
from rerankq.bulk.formats.texts import Naming, texts_of
from rerankq.bulk.rows import Entry, InputRow, Ranked, broken_row, by_place, document_key, name_of_row
from rerankq.contract.errors import InvalidRequest
from rerankq.contract.messages import Ranking

COLUMNS = ("qid", "Q0", "docid", "rank", "score", "tag")
RUN_TAG = "rerankq"

Candidates = list[list[str]]


class TrecReader(Reader):
    """The candidates of each query of a run, best first, up to `depth` of them."""

    def __init__(self, given: Given) -> None:
        task = given.task
        if task.queries is None or task.corpus is None:
            raise InvalidRequest(
                "a TREC run has ids only; name the texts with --queries queries.jsonl --corpus corpus.jsonl",
                {"field": "queries"},
            )
        super().__init__(given)
        self._queries, self._corpus = Input(task.queries), Input(task.corpus)
        self._depth, self._skips_missing = task.depth, task.skips_missing
        self._query_texts: TextsById | None = None
        self._document_texts: TextsById | None = None

    def records(self) -> Iterator[Candidates]:
        with (
            TextsById(texts_of(self._queries, Naming.of_queries(self._names))) as self._query_texts,
            TextsById(texts_of(self._corpus, Naming.of_documents(self._names))) as self._document_texts,
            SeenIds() as seen,
        ):
            for query_id, lines in groupby(_split(self._input), key=lambda columns: columns[0]):
                seen.refuse_repeated(query_id, "sort the run by its first column")
                yield list(lines)

    def row(self, record: Candidates) -> InputRow:
        query_id = record[0][0]
        ranked = sorted(record, key=lambda columns: int(columns[3]))[: self._depth]
        query = _text(self._query_texts, query_id)
        documents = [
            {"id": columns[2], "text": _text(self._document_texts, columns[2])} for columns in ranked
        ]
        fields: dict[str, Any] = {"id": query_id, "query": query, "documents": documents}
        size = len(query or "") + sum(len(document["text"] or "") for document in documents)
        broken = partial(broken_row, fields, size_bytes=size, id_=query_id)
        missing = [str(document["id"]) for document in documents if document["text"] is None]
        doubled = [name for name in missing if _has_several(self._document_texts, name)]
        if missing and self._skips_missing:
            documents = [document for document in documents if document["text"] is not None]
            fields["documents"] = documents
        if _has_several(self._query_texts, query_id):
            return broken(f"query {query_id} has several texts in the queries; leave one")
        if query is None:
            return broken(f"query {query_id} is not in the queries")
        if doubled:
            return broken(f"with several texts in the corpus: {', '.join(doubled)}; leave one of each")
        if missing and (not self._skips_missing or not documents):
            return broken(f"not in the corpus: {', '.join(missing)}; --missing skip goes on without them")
        return InputRow(source=fields, size_bytes=size, **fields)

    def inputs(self) -> list[Input]:
        return [self._input, self._queries, self._corpus]

    def further_columns(self) -> list[str]:
        return []


class TrecWriter(Writer):
    """One line per document. The score is the logit: TREC tools sort by it, and sigmoids of good matches tie."""

    def lines(self, entry: Entry, ranking: Ranking) -> bytes:
        query_id = name_of_row(entry)
        scored = [result for result in ranking.results if result.logit is not None]
        for name in (query_id, *(result.id for result in scored)):
            if name is not None and name.split() != [name]:
                raise InvalidRequest("an id with blanks cannot stand in a TREC run", {"field": "id"})
        return b"".join(
            f"{query_id} Q0 {document_key(result.id, result.index)} {rank} {result.logit} {RUN_TAG}\n".encode()
            for rank, result in enumerate(scored, start=1)
        )


def ranked_run(given: Given) -> Iterator[Ranked]:
    """The rankings of a run as trec_eval reads it: by scores of 32 bits, of equal ones the greater name first."""
    with SeenIds() as seen:
        for query_id, lines in groupby(_split(given.input), key=lambda columns: columns[0]):
            seen.refuse_repeated(query_id, "sort the run by its first column")
            scored = [(c_float(float(columns[4])).value, columns[2]) for columns in lines]
            yield Ranked(query_id, by_place([name for _, name in sorted(scored, reverse=True)]))


def _split(run: Input) -> Iterator[list[str]]:
    """The columns of each line; one of no run is refused."""
    for line in run.lines():
        columns = line.decode(errors="replace").split()
        if len(columns) != len(COLUMNS) or not columns[3].lstrip("-").isdigit():
            raise InvalidRequest(
                f"line {run.line} of {run.at.path}: expected `qid Q0 docid rank score tag`, "
                f"got {len(columns)} columns",
                {"field": "run", "line": run.line},
            )
        yield columns


def _has_several(texts: TextsById | None, name: str) -> bool:
    return texts is not None and texts.has_several(name)


def _text(texts: TextsById | None, name: str) -> str | None:
    return None if texts is None else texts.get(name)
