"""A program gives an iterator or a table of whatever library, and gets answers, or a table of the same library."""

import datetime as dt
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rerankq import InvalidRequest, RerankClient, RerankError
from rerankq.bulk import rerank_many, rerank_table
from tests.bulk.answering import AnsweringWorker
from tests.conftest import REPOSITORY
from tests.redis_server import RedisServer

pa = pytest.importorskip("pyarrow")

pytestmark = pytest.mark.usefixtures("worker")

WIDE = {
    "key": [7, 8],
    "query": ["first", "second"],
    "documents": [[{"id": 10, "text": "one"}, {"id": 11, "text": "eleven"}], [{"id": 12, "text": "two"}]],
}
LONG = {
    "query_id": [7, 7, 8],
    "query": ["first", "first", "second"],
    "doc_id": [10, 11, 12],
    "text": ["one", "eleven", "two"],
}
RANKED = [(7, 11, 1), (7, 10, 2), (8, 12, 1)]


class Exporting:
    """Any library's table that has Arrow's interface and nothing else."""

    def __init__(self, columns: Any) -> None:
        self._table = pa.table(columns)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)


def pandas(columns: Any) -> Any:
    return pytest.importorskip("pandas").DataFrame(columns)


def polars(columns: Any) -> Any:
    return pytest.importorskip("polars").DataFrame(columns)


def hugging_face(columns: Any) -> Any:
    return pytest.importorskip("datasets").Dataset.from_dict(columns)


def streamed(columns: Any) -> Any:
    return hugging_face(columns).to_iterable_dataset()


def in_batches(columns: Any) -> Any:
    """One row a batch."""
    table = pa.table(columns)
    return pa.Table.from_batches(table.to_batches(max_chunksize=1), table.schema)


LIBRARIES: dict[str, Callable[[Any], Any]] = {
    "pyarrow": pa.table,
    "batches": in_batches,
    "a stream": lambda columns: pa.table(columns).to_reader(),
    "any library": Exporting,
    "pandas": pandas,
    "polars": polars,
    "hugging face": hugging_face,
    "hugging face, streamed": streamed,
}
library = pytest.mark.parametrize("made", LIBRARIES.values(), ids=LIBRARIES)


def places(answer: Any) -> list[int]:
    assert not isinstance(answer, RerankError), answer
    return [result.index for result in answer.results]


@library
def test_rows_of_any_table_come_back_with_their_answers(
    client: RerankClient, made: Callable[[Any], Any]
) -> None:
    got = list(rerank_many(made(WIDE), client, id_field="key"))

    assert [(row["key"], row["query"], places(answer)) for row, answer in got] == [
        (7, "first", [1, 0]),
        (8, "second", [0]),
    ]


@library
def test_a_row_per_document_comes_back_as_its_query_s_rows(
    client: RerankClient, made: Callable[[Any], Any]
) -> None:
    got = list(rerank_many(made(LONG), client, top_n=1))

    assert [[row["doc_id"] for row in rows] for rows, _ in got] == [[10, 11], [12]]
    assert [rows[places(answer)[0]]["text"] for rows, answer in got] == ["eleven", "two"]


@library
@pytest.mark.parametrize(("columns", "key"), [(WIDE, "key"), (LONG, "query_id")], ids=["wide", "long"])
def test_a_table_of_rankings_joins_on_the_callers_own_ids(
    client: RerankClient, made: Callable[[Any], Any], columns: Any, key: str
) -> None:
    given = made(columns)

    ranked = rerank_table(given, client, id_field=key, return_documents=True)

    if type(given).__module__.startswith(("pandas", "polars")):
        assert type(ranked) is type(given)
    table = pa.table(ranked)
    assert table.column_names == [
        key,
        *("index", "doc_id", "rank", "relevance_score", "logit", "text", "error"),
    ]
    assert [table.schema.field(name).type for name in (key, "doc_id")] == [pa.int64()] * 2
    assert [(row[key], row["doc_id"], row["rank"]) for row in table.to_pylist()] == RANKED
    assert table["text"].to_pylist() == ["eleven", "one", "two"]


@library
@pytest.mark.parametrize("queries", [["poison", "poison"], ["this", "that"]], ids=["failed", "unreadable"])
def test_a_request_that_fails_is_a_row_with_its_error(
    client: RerankClient, made: Callable[[Any], Any], queries: list[str]
) -> None:
    ranked = rerank_table(made({**LONG, "query": [*queries, "second"]}), client)

    rows = pa.table(ranked).to_pylist()
    assert [(row["query_id"], row["error"] is None) for row in rows] == [(7, False), (8, True)]
    assert [rows[0][name] for name in ("rank", "doc_id")] == [None, None] or str(rows[0]["rank"]) == "nan"


@library
@pytest.mark.parametrize("columns", [WIDE, LONG], ids=["wide", "long"])
def test_a_table_of_no_rows_gives_one(client: RerankClient, made: Callable[[Any], Any], columns: Any) -> None:
    none = pa.table(columns).slice(0, 0)
    if made is streamed:
        pytest.skip("a stream of nothing has no columns")
    given = made(none.to_pydict() if made in (pandas, polars, hugging_face) else none)

    assert pa.table(rerank_table(given, client)).num_rows == 0


IDS = {
    "dates": pa.array([dt.date(2026, 1, 1), dt.date(2026, 1, 2)]),
    "nanoseconds": pa.array([1_700_000_000_123_456_789, 2], pa.timestamp("ns", "Europe/Paris")),
    "categories": pa.array(["a", "b"]).dictionary_encode(),
    "small": pa.array([1, 2], pa.int8()),
    "bytes": pa.array([b"\xff", b"b"]),
    "called as one of ours": pa.array(["x", "y"]),
}


@pytest.mark.parametrize(("name", "ids"), IDS.items(), ids=IDS)
def test_ids_of_any_type_come_back_as_they_were(client: RerankClient, name: str, ids: Any) -> None:
    key = "rank" if name == "called as one of ours" else "key"
    given = pa.table({**WIDE, key: ids})

    ranked = rerank_table(given, client, id_field=key, top_n=1)

    column = ranked["input_rank" if key == "rank" else key]
    assert column.type == ids.type
    assert str(column.combine_chunks()) == str(ids)


def test_rows_without_an_id_are_named_by_their_place(client: RerankClient) -> None:
    ranked = rerank_table(pa.table({"query": ["q", "r"], "documents": [["a"], ["b"]]}), client)

    assert ranked.select(["row", "index", "rank"]).to_pydict() == {
        "row": [0, 1],
        "index": [0, 0],
        "rank": [1, 1],
    }
    assert "doc_id" not in ranked.column_names


DOCUMENTS = {
    "an array": np.array(["a", "bb"]),
    "an array of objects": np.array([{"body": "a"}, {"body": "bb"}]),
    "a tuple": ("a", "bb"),
    "a column": pa.array(["a", "bb"]),
    "an iterator": iter(["a", "bb"]),
    "arrays within an object": {"body": np.array(["a", "bb"]), "kind": np.array([1, 2])},
}


@pytest.mark.parametrize("documents", DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_of_a_row_may_be_anything_in_an_order(client: RerankClient, documents: Any) -> None:
    requests = ({"question": "q", "ctxs": documents} for _ in range(1))

    [(_, answer)] = rerank_many(
        requests, client, query_field="question", documents_field="ctxs", text_field="body"
    )

    assert places(answer) == [1, 0]


def test_rows_of_a_generator_may_be_in_long_form(client: RerankClient) -> None:
    rows = [dict(zip(LONG, values, strict=True)) for values in zip(*LONG.values(), strict=True)]

    got = list(rerank_many(iter(rows), client))

    assert [(lines, places(answer)) for lines, answer in got] == [(rows[:2], [1, 0]), (rows[2:], [0])]


@pytest.mark.parametrize("made", [list, pa.Table.from_pylist], ids=["mappings", "table"])
def test_a_programs_own_keys_are_left_alone(client: RerankClient, made: Callable[[Any], Any]) -> None:
    row = {"query": "q", "documents": ["a", "bb"], "relevant": [0, 1], "model name": "other"}

    [(given, answer)] = rerank_many(made([row]), client)

    assert (given, places(answer)) == (row, [1, 0])


def test_an_iterator_of_the_callers_own_is_not_used_up(client: RerankClient) -> None:
    mine = iter([1, 2])

    list(rerank_many([{"query": "q", "documents": ("a",), "mine": mine}], client))

    assert list(mine) == [1, 2]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (7, "expected an iterable of requests or a table, got int"),
        ({"train": []}, "expected an iterable of requests or a table, got dict"),
        (pa.chunked_array([["a"]]), "expected a table with columns, got ChunkedArray"),
        (pa.table({**LONG, "query_id": [1, 2, 1]}), "lines of query 1 to be neighbours"),
    ],
    ids=["no iterable", "a mapping", "a column", "lines in two places"],
)
def test_what_cannot_be_read_is_told_in_one_line(client: RerankClient, given: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        list(rerank_many(given, client))


def test_a_series_of_requests_is_an_iterable(client: RerankClient) -> None:
    series = pytest.importorskip("pandas").Series([("q", ["a", "bb"])])

    assert [places(answer) for _, answer in rerank_many(series, client)] == [[1, 0]]


def test_splits_are_no_table(client: RerankClient) -> None:
    splits = pytest.importorskip("datasets").DatasetDict({"train": hugging_face(WIDE)})

    with pytest.raises(InvalidRequest, match="expected an iterable of requests or a table, got DatasetDict"):
        list(rerank_many(splits, client))


def test_an_iterable_is_no_table(client: RerankClient) -> None:
    with pytest.raises(InvalidRequest, match="expected a table, got list; rerank_many takes any iterable"):
        rerank_table([], client)


def test_a_column_of_several_types_is_told_without_its_values(client: RerankClient) -> None:
    given = pandas({"query": ["q", "q"], "documents": [["a"]] * 2, "note": ["secret", 7]})

    with pytest.raises(InvalidRequest, match="column note") as refused:
        rerank_table(given, client)
    assert "secret" not in str(refused.value)


def test_a_table_is_read_no_further_than_what_is_under_way(
    client: RerankClient, worker: AnsweringWorker
) -> None:
    read: list[int] = []

    def batches() -> Any:
        for number in range(100_000):
            read.append(number)
            yield pa.RecordBatch.from_pylist([{"query": f"q{number}", "documents": ["a" * 1000] * 20}])

    schema = pa.RecordBatch.from_pylist([{"query": "q", "documents": ["a"]}]).schema
    answers = rerank_many(pa.RecordBatchReader.from_batches(schema, batches()), client)
    next(answers)
    answers.close()

    assert len(read) < 2000


EXAMPLES = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / "docs" / "bulk.md").read_text(), re.M | re.S)


@pytest.mark.parametrize("code", EXAMPLES, ids=["iterator", "pandas", "polars", "hugging face"])
def test_the_examples_of_the_documentation_run(
    redis_server: RedisServer, code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for library in re.findall(r"^(?:import|from) (pandas|polars|datasets)", code, re.M):
        pytest.importorskip(library)
    monkeypatch.setenv("RERANKQ_BROKER_URL", redis_server.url)

    exec(compile(code, "docs/bulk.md", "exec"), {})

    assert re.search("Paris|capital of France 1|num_rows: 2", capsys.readouterr().out)
