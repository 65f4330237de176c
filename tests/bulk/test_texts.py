"""The texts of a TREC run's queries and documents, in each form that this field keeps them in."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rerankq import InvalidRequest
from rerankq.bulk.formats.inputs import Input
from rerankq.bulk.formats.names import USUAL_NAMES
from rerankq.bulk.formats.texts import Naming, texts_of
from tests.bulk.test_formats import lines, understood

NAMES = USUAL_NAMES


def documents(path: Path, **names: str) -> dict[str, str]:
    return dict(texts_of(Input(str(path)), Naming.of_documents(NAMES.renamed(names))))


def queries(path: Path, **names: str) -> dict[str, str]:
    return dict(texts_of(Input(str(path)), Naming.of_queries(NAMES.renamed(names))))


ONE: dict[str, dict[str, Any]] = {
    "BEIR": {"_id": "d", "title": "T", "text": "body", "metadata": {"url": "u"}},
    "BEIR, no title": {"_id": "d", "title": "", "text": "T body"},
    "Anserini": {"id": "d", "contents": "T body"},
    "MS MARCO v2 passages": {"pid": "d", "passage": "T body", "spans": "(0,5)", "docid": "other"},
    "MS MARCO v2 documents": {"docid": "d", "url": "u", "title": "T", "headings": "h", "body": "body"},
    "MS MARCO v2 segments": {"docid": "d", "url": "u", "title": "T", "headings": "h", "segment": "body"},
    "an id that is a number": {"id": 7, "text": "T body"},
}


@pytest.mark.parametrize("fields", ONE.values(), ids=ONE)
def test_a_corpus_of_json_lines_is_read_as_its_makers_have_it(tmp_path: Path, fields: dict[str, Any]) -> None:
    (tmp_path / "corpus").write_bytes(lines([fields]))

    assert documents(tmp_path / "corpus") == {"7" if fields.get("id") == 7 else "d": "T body"}


TABS: dict[str, str] = {
    "id and text": 'd\tT "body\ne\t\n',
    "id, url, title and body": 'd\thttps://u/\tT\t"body\ne\thttps://u/\t\t\n',
    "a header": 'id\ttext\ttitle\nd\t"body\tT\ne\t\t\n',
}


@pytest.mark.parametrize("content", TABS.values(), ids=TABS)
def test_a_corpus_between_tabs_is_told_by_its_columns(tmp_path: Path, content: str) -> None:
    (tmp_path / "collection.tsv.gz").write_bytes(gzip.compress(content.encode()))

    assert documents(tmp_path / "collection.tsv.gz") == {"d": 'T "body', "e": ""}


def test_a_corpus_may_be_an_array_and_have_other_names(tmp_path: Path) -> None:
    corpus = [{"key": "d", "head": "T", "paragraphs": [{"t": "a"}, {"t": "b"}], "title": "not asked for"}]
    (tmp_path / "corpus").write_text(json.dumps(corpus))

    assert documents(tmp_path / "corpus", document_id="key", text="head,paragraphs.t") == {"d": "T a b"}


TOPICS: dict[str, str] = {
    "BEIR": '{"_id": "q", "text": "what?"}',
    "qid and query": '{"qid": "q", "query": "what?"}',
    "a topic's title": '{"qid": "q", "title": "what?", "description": "more"}',
    "between tabs": "q\twhat?",
    "with a header": "qid\tquery\nq\twhat?",
}


@pytest.mark.parametrize("content", TOPICS.values(), ids=TOPICS)
def test_queries_are_read_in_each_form(tmp_path: Path, content: str) -> None:
    (tmp_path / "topics").write_text(content)

    assert queries(tmp_path / "topics") == {"q": "what?"}


WRONG: dict[str, tuple[bytes, str]] = {
    "no text": (
        b'{"id": "d", "vector": [1]}\n',
        "line 1 of .*expected an id and a text; fields seen: id, vector",
    ),
    "no JSON in the second line": (
        b'{"id": "d", "text": "a"}\nd\ta\n',
        "line 2 of .*expected an id and a text;",
    ),
    "three columns": (b"d\ta\tb\n", "line 1 of .*among 3 columns without a header"),
    "four without a url": (b"d\ta\tb\tc\n", "line 1 of .*among 4 columns without a header"),
    "a line of another length": (b"d\ta\ne\tb\tc\n", "line 2 of .*expected 2 columns, got 3"),
    "no utf-8": (b"d\t\xff\n", "line 1 of .*expected text in utf-8"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_a_line_without_id_and_text_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "corpus").write_bytes(content)

    with pytest.raises(InvalidRequest, match=message):
        documents(tmp_path / "corpus")


def test_a_run_takes_its_texts_from_any_of_them(tmp_path: Path) -> None:
    (tmp_path / "in.trec").write_text("q Q0 d 1 1.0 x\n")
    (tmp_path / "corpus").write_bytes(lines([{"id": "d", "contents": "text"}]))
    (tmp_path / "topics.tsv").write_text("q\twhat?\n")

    [row] = understood(
        tmp_path / "in.trec", corpus=str(tmp_path / "corpus"), queries=str(tmp_path / "topics.tsv")
    )

    assert (row.query, row.documents) == ("what?", [{"id": "d", "text": "text"}])
