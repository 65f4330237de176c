"""What an input calls its fields: paths, several at once, names that are known by themselves; and its judgements."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankq import InvalidRequest, RerankClient
from rerankq.bulk.formats.json_lines import canonical_row
from rerankq.bulk.formats.names import USUAL_NAMES, FieldNames
from rerankq.bulk.rows import InputRow
from tests.bulk.answering import AnsweringWorker
from tests.bulk.test_formats import understood
from tests.bulk.test_run import read, run, write
from tests.conftest import REPOSITORY


def row(fields: dict[str, Any], **names: str) -> InputRow:
    return canonical_row(fields, USUAL_NAMES.renamed(names), 0)


def texts(read: InputRow) -> list[Any]:
    return [one["text"] if isinstance(one, dict) else one for one in read.documents]


PASSAGES = [{"passage_text": "a", "is_selected": 0}, {"passage_text": "b", "is_selected": 1}]
STRUCT = {"passage_text": ["a", "b"], "is_selected": [0, 1]}
NODES = [{"node": {"text": "a", "id_": 1}, "score": 0.5}, {"node": {"text": "b", "id_": 2}, "score": 0.1}]
TITLED = [{"title": "T", "text": "a"}, {"title": "", "text": "b"}, {"text": "c"}]

PATHS: dict[str, tuple[dict[str, Any], dict[str, str], list[str]]] = {
    "through a list": ({"passages": PASSAGES}, {"documents": "passages.passage_text"}, ["a", "b"]),
    "through a struct of lists": ({"passages": STRUCT}, {"documents": "passages.passage_text"}, ["a", "b"]),
    "a struct of lists as documents": (
        {"passages": STRUCT},
        {"documents": "passages", "text": "passage_text"},
        ["a", "b"],
    ),
    "through lists of lists": (
        {"groups": [{"docs": ["a"]}, {"docs": ["b", "c"]}]},
        {"documents": "groups.docs"},
        ["a", "b", "c"],
    ),
    "a text deep in a document": ({"documents": NODES}, {"text": "node.text"}, ["a", "b"]),
    "a document deep in the row": ({"data": {"docs": ["a"]}}, {"documents": "data.docs"}, ["a"]),
    "a key with a dot": ({"a.b": ["a"], "a": {"b": ["x"]}}, {"documents": "a.b"}, ["a"]),
    "a key with a dot on the way": ({"a.b": {"c": ["a"]}}, {"documents": "a.b.c"}, ["a"]),
    "a key with a comma": ({"a,b": ["a"], "a": ["x"], "b": ["y"]}, {"documents": "a,b"}, ["a"]),
    "several strung together": ({"pos": ["a"], "neg": ["b", "c"]}, {"documents": "neg,pos"}, ["b", "c", "a"]),
    "lone strings": ({"gold": "a", "other": "b"}, {"documents": "gold, other"}, ["a", "b"]),
    "one of several absent": ({"gold": "a", "other": None}, {"documents": "gold,other,more"}, ["a"]),
    "texts joined by a blank": ({"documents": TITLED}, {"text": "title,text"}, ["T a", "b", "c"]),
    "a text made of a list": (
        {"documents": [{"parts": [{"t": "a"}, {"t": "b"}]}]},
        {"text": "parts.t"},
        ["a b"],
    ),
}


@pytest.mark.parametrize(("fields", "names", "expected"), PATHS.values(), ids=PATHS)
def test_a_name_is_a_path_and_may_be_several(
    fields: dict[str, Any], names: dict[str, str], expected: list[str]
) -> None:
    assert texts(row({"query": "q", **fields}, **names)) == expected


def test_query_and_ids_may_be_paths_as_well() -> None:
    got = row(
        {"ask": {"title": "A", "body": "b"}, "meta": {"qid": 7, "lang": "en"}, "documents": NODES},
        query="ask.title,ask.body",
        id="meta.qid",
        text="node.text",
        document_id="node.id_",
    )

    assert (got.query, got.id, got.documents) == (
        "A b",
        7,
        [{"text": "a", "id": "1"}, {"text": "b", "id": "2"}],
    )
    assert got.extra == {"meta": {"lang": "en"}}


def test_what_has_no_such_path_is_left_alone() -> None:
    got = row({"data": {"q": "q"}, "meta": "", "documents": ["a"]}, query="data.q", id="meta.id")

    assert got.extra == {"meta": ""}


def test_what_lies_beside_a_path_is_carried_through() -> None:
    got = [
        row({"query": "q", "passages": given, "lang": "en"}, documents="passages.passage_text")
        for given in (PASSAGES, STRUCT)
    ]

    assert got[0].extra == {"passages": [{"is_selected": 0}, {"is_selected": 1}], "lang": "en"}
    assert got[1].extra == {"passages": {"is_selected": [0, 1]}, "lang": "en"}


KNOWN: dict[str, tuple[dict[str, Any], list[str], dict[str, float] | None]] = {
    "MTEB": ({"query": "q", "positive": ["a"], "negative": ["b", "c"]}, ["a", "b", "c"], {"0": 1}),
    "FlagEmbedding": (
        {"query": "q", "pos": ["a", "b"], "neg": ["c"], "prompt": "p", "pos_scores": [1.0, 2.0]},
        ["a", "b", "c"],
        {"0": 1, "1": 1},
    ),
    "a triplet": ({"anchor": "q", "positive": "a", "negative": "b"}, ["a", "b"], {"0": 1}),
    "documents go first": ({"query": "q", "documents": ["x"], "positive": ["a"], "negative": ["b"]}, ["x"], None),
    "relevant goes first": (
        {"query": "q", "positive": ["a"], "negative": ["b"], "relevant": {"1": 1}},
        ["a", "b"],
        {"1": 1},
    ),
    "TEI": ({"query": "q", "texts": ["a", "b"]}, ["a", "b"], None),
    "vLLM": ({"text_1": "q", "text_2": ["a", "b"]}, ["a", "b"], None),
    "vLLM, one of each": ({"text_1": ["q"], "text_2": "a"}, ["a"], None),
    "what is null is not there": (
        {"query": None, "question": "q", "documents": None, "pos": "a", "neg": None},
        ["a"],
        {"0": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "documents", "relevant"), KNOWN.values(), ids=KNOWN)
def test_known_forms_are_told_by_themselves(
    fields: dict[str, Any], documents: list[str], relevant: dict[str, float] | None
) -> None:
    got = row(fields)

    assert (got.query, texts(got), got.relevant) == ("q", documents, relevant)


KEYS = st.sampled_from(
    ["query", "documents", "id", "text", "relevant", "pos", "neg", "a", "a.b", "a,b", "hits", "docid"]
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 5)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "x", "[1]"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
NAMES = st.dictionaries(
    st.sampled_from(FieldNames.__slots__),
    st.sampled_from(["a", "a.b", "a,b", "a.b,pos", "documents.a"]),
    max_size=3,
)


@settings(max_examples=50)
@given(st.dictionaries(KEYS, VALUES, max_size=6), NAMES)
def test_no_row_is_so_odd_that_it_ends_the_run(fields: dict[str, Any], names: dict[str, str]) -> None:
    assert row(fields, **names).source == fields


def test_a_form_that_is_only_half_there_is_not_guessed() -> None:
    assert row({"anchor": "q", "positive": "a", "negative_1": "b", "negative_2": "c"}).documents is None


@pytest.mark.parametrize("part", FieldNames.__slots__)
def test_the_names_that_are_known_are_those_of_the_document(part: str) -> None:
    option = f"--{part.replace('_', '-')}-field"
    [line] = [
        one for one in (REPOSITORY / "docs/bulk.md").read_text().splitlines() if f"| `{option}` |" in one
    ]

    assert tuple(re.findall("`([^`]+)`", line.split("|")[3])) == getattr(USUAL_NAMES, part)


IDS = [{"id": "7", "text": "a"}, {"id": "9", "text": "b"}, {"id": "8", "text": "c"}]
JUDGED: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, float] | None]] = {
    "a documents field": (
        {"good": ["a"], "bad": ["b"]},
        {"documents": "bad,good", "relevant": "good"},
        {"1": 1},
    ),
    "a documents field with ids": (
        {"good": [IDS[0]], "bad": [IDS[1]]},
        {"documents": "good,bad", "relevant": "good"},
        {"7": 1},
    ),
    "flags in a list": (
        {"passages": PASSAGES},
        {"documents": "passages.passage_text", "relevant": "passages.is_selected"},
        {"0": 0, "1": 1},
    ),
    "flags in lists of lists": (
        {"groups": [{"docs": ["a", "b"], "gold": [0, 1]}, {"docs": ["c", "d"], "gold": [1, 0]}]},
        {"documents": "groups.docs", "relevant": "groups.gold"},
        {"0": 0, "1": 1, "2": 1, "3": 0},
    ),
    "flags in a struct of lists": (
        {"passages": STRUCT},
        {"documents": "passages.passage_text", "relevant": "passages.is_selected"},
        {"0": 0, "1": 1},
    ),
    "flags in the documents": (
        {"documents": [{**IDS[0], "gold": True}, {**IDS[1], "gold": None}]},
        {"relevant": "documents.gold"},
        {"7": 1},
    ),
    "grades in the documents": (
        {"documents": [{**IDS[0], "grade": 7}, {**IDS[1], "grade": 9}]},
        {"relevant": "documents.grade"},
        {"7": 7, "9": 9},
    ),
    "flags beside documents": ({"documents": ["a", "b"], "labels": [1, 0]}, {"relevant": "labels"}, {"0": 1, "1": 0}),
    "flags beside documents with ids": (
        {"documents": IDS, "labels": [0, 1, 0]},
        {"relevant": "labels"},
        {"7": 0, "9": 1, "8": 0},
    ),
    "grades that are no whole numbers": (
        {"documents": IDS, "labels": [0.5, 1.0, 0.0]},
        {"relevant": "labels"},
        {"7": 0.5, "9": 1, "8": 0},
    ),
    "as many ids as documents": ({"documents": IDS, "relevant": [7, 9, 12]}, {}, {"7": 1, "9": 1, "12": 1}),
    "flags where ids are no numbers": (
        {"documents": [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}], "relevant": [1, 0]},
        {},
        {"a": 1, "b": 0},
    ),
    "two fields of judgements": (
        {"documents": IDS, "gold": ["7"], "silver": {"9": 0.5}},
        {"relevant": "gold,silver"},
        {"7": 1, "9": 0.5},
    ),
    "a key that means something else": ({"documents": IDS, "relevant": "very"}, {}, None),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "names", "expected"), JUDGED.values(), ids=JUDGED)
def test_judgements_are_where_they_are_said_to_be(
    fields: dict[str, Any], names: dict[str, str], expected: dict[str, float] | None
) -> None:
    got = row({"query": "q", **fields}, **names)

    assert (got.error, got.relevant) == (None, expected)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "ids or grades": ({"documents": IDS[:2], "relevant": [1, 0]}, {}, "relevant: may be ids or grades by place"),
    "too few flags": (
        {"documents": ["a", "b"], "labels": [True]},
        {"relevant": "labels"},
        "labels: expected a grade for each of 2 documents, got 1",
    ),
    "too many grades": (
        {"documents": ["a", "b"], "relevant": [0, 1, 1]},
        {},
        "relevant: expected a grade for each of 2 documents, got 3",
    ),
    "no judgements": ({"documents": ["a"], "labels": "very"}, {"relevant": "labels"}, "labels: expected grades"),
    "no such id": (
        {"documents": ["a"], "uid": 7},
        {"id": "qid"},
        "id: there is no field qid; fields seen: documents, query, uid",
    ),
    "no such text": (
        {"documents": ["a", {"body": "b"}]},
        {"text": "title,text"},
        "a document's text: there is no field title,text; fields seen: body",
    ),
    "no text at all": (
        {"documents": ["a", {"body": None, "title": "t"}]},
        {},
        "a document's text: is missing; fields seen: body, title",
    ),
    "no such document id": (
        {"documents": [{"text": "b", "key": 1}]},
        {"document_id": "pid"},
        "a document's id: there is no field pid; fields seen: key, text",
    ),
    "no such documents": (
        {"docs": ["a"]},
        {"documents": "pos,neg"},
        "documents: there is no field pos,neg; fields seen: docs, query",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "names", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_told_is_an_error_of_the_row(
    fields: dict[str, Any], names: dict[str, str], reason: str
) -> None:
    got = row({"query": "q", **fields}, **names)

    assert got.error is not None
    assert got.error.message.startswith(reason)


def test_a_column_of_structs_is_read_as_its_lines_are(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.Table.from_pylist([{"query": "q", "passages": STRUCT}, {"query": "q", "passages": None}])
    pytest.importorskip("pyarrow.parquet").write_table(table, tmp_path / "in.parquet")

    [first, second] = understood(
        tmp_path / "in.parquet",
        names={"documents": "passages.passage_text", "relevant": "passages.is_selected"},
    )

    assert (first.documents, first.relevant) == (["a", "b"], {"0": 0, "1": 1})
    assert second.documents is None


def test_training_rows_are_judged_by_their_positives_and_failed_ones_can_be_mended(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    pytest.importorskip("ir_measures")
    given = [{"query": "q", "pos": ["long"], "neg": ["a"]}, {"query": "q", "pos": [7], "neg": ["a"]}]

    summary = run(client, write(tmp_path / "in.jsonl", given), tmp_path / "out.jsonl")

    assert (summary.judged_queries, summary.quality["mrr_after"]) == (1, 1)
    errors = tmp_path / "out.jsonl.errors.jsonl"
    errors.write_bytes(errors.read_bytes().replace(b"[7]", b'["mended"]'))
    again = run(client, tmp_path / "in.jsonl", tmp_path / "out.jsonl", retry_errors=True)
    assert (again.failed, again.judged_queries) == (0, 2)
    assert [len(line["results"]) for line in read(tmp_path / "out.jsonl")] == [2, 2]


def test_a_run_goes_on_only_with_the_judgements_it_was_begun_with(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = write(tmp_path / "in.jsonl", [{"query": "q", "documents": ["a"], "gold": {"0": 1}}])
    run(client, given, tmp_path / "out.jsonl")

    with pytest.raises(InvalidRequest, match="begun with judgements' field = None, now it is gold"):
        run(client, given, tmp_path / "out.jsonl", names={"relevant": "gold"})


TABLES: dict[str, tuple[str, dict[str, Any]]] = {
    "a header": ("query_id\tquery\tdoc_id\ttext\nq\t?\td\ta b\n", {}),
    "other names that are known": ("qid\tpid\tquery\tpassage\nq\td\t?\ta b\n", {}),
    "no header": ("q\td\t?\ta b\n", {"columns": ["qid", "pid", "query", "passage"]}),
    "columns joined": (
        "qid\tquery\tdocid\ttitle\tbody\nq\t?\td\ta\tb\n",
        {"names": {"text": "title,body"}},
    ),
    "a header that is data": (
        "q\td\t?\ta b\n",
        {"columns": ["a", "b", "c", "d"], "names": {"id": "a", "document_id": "b", "query": "c", "text": "d"}},
    ),
    "the own name goes first": ("query_id\tqid\tquery\tdoc_id\tdocid\ttext\tpassage\nq\tx\t?\td\tx\ta b\tx\n", {}),
}  # fmt: skip


@pytest.mark.parametrize(("content", "options"), TABLES.values(), ids=TABLES)
def test_a_table_s_columns_are_found_by_their_names(
    tmp_path: Path, content: str, options: dict[str, Any]
) -> None:
    (tmp_path / "in.tsv").write_text(content)

    [got] = understood(tmp_path / "in.tsv", **options)

    assert (got.id, got.query, got.documents) == ("q", "?", [{"text": "a b", "id": "d"}])


WRONG_COLUMNS = {
    "too few names": (["qid", "query", "text"], {}, "line 1 of .*expected 3 columns, got 4"),
    "no query": (["qid", "pid", "title", "text"], {}, "expected a column query, got qid, pid, title, text; --query"),
    "an option names none": (["qid", "pid", "query", "text"], {"text": "title,text"}, "expected a column title"),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "names", "message"), WRONG_COLUMNS.values(), ids=WRONG_COLUMNS)
def test_a_column_that_is_not_there_is_told_with_those_that_are(
    tmp_path: Path, columns: list[str], names: dict[str, str], message: str
) -> None:
    (tmp_path / "in.tsv").write_text("q\td\t?\ta b\n")

    with pytest.raises(InvalidRequest, match=message):
        understood(tmp_path / "in.tsv", columns=columns, names=names)


def test_columns_are_a_table_s(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="--columns is for csv or tsv"):
        understood(write(tmp_path / "in.jsonl", [{"query": "q", "documents": ["a"]}]), columns=["query"])


def test_a_table_s_lines_carry_their_grades(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("query_id,query,doc_id,text,label\nq,?,d,a,2\nq,?,e,b,\n")

    [got] = understood(tmp_path / "in.csv", names={"relevant": "label"})
    [unfit] = understood(tmp_path / "in.csv", names={"relevant": "text"})

    assert got.relevant == {"d": 2}
    assert str(unfit.error) == "text: expected a number in each line, or nothing"


def test_a_path_leads_into_the_columns_of_a_row_per_document_too(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    arrow = pytest.importorskip("pyarrow")
    given = [{"of": {"qid": 7, "q": "?"}, "doc": {"id": n, "text": "a" * n}, "label": n - 1} for n in (1, 2)]
    pytest.importorskip("pyarrow.parquet").write_table(
        arrow.Table.from_pylist(given), tmp_path / "in.parquet"
    )
    names = {
        "id": "of.qid",
        "query": "of.q",
        "text": "doc.text",
        "document_id": "doc.id",
        "relevant": "label",
    }

    run(client, tmp_path / "in.parquet", tmp_path / "out.jsonl", names=names)
    run(client, tmp_path / "in.parquet", tmp_path / "out.parquet", names=names)

    [line] = read(tmp_path / "out.jsonl")
    assert (line["id"], line["relevant"]) == (7, {"1": 0, "2": 1})
    assert [result["id"] for result in line["results"]] == ["2", "1"]
    got = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "out.parquet").to_pylist()
    assert [(row["query_id"], row["doc_id"], row["label"]) for row in got] == [(7, "2", 1), (7, "1", 0)]
