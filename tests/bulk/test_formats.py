"""Each format is read into the same requests, and what comes back is in the form its users know."""

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from rerankq import InvalidRequest, RerankClient
from rerankq.bulk import Task
from rerankq.bulk.formats import FORMATS, input_format, output_format
from rerankq.bulk.formats.inputs import Input
from rerankq.bulk.plan import Plan
from rerankq.bulk.rows import InputRow
from rerankq.contract import wire
from tests.bulk.answering import AnsweringWorker
from tests.bulk.test_run import read, run, write

REQUESTS = [
    {"id": "q1", "query": "first", "documents": [{"id": "a", "text": "one"}, {"id": "b", "text": "eleven"}]},
    {"id": "q2", "query": "второй 第二", "documents": [{"id": "c", "text": "二"}]},
]
BATCH = [
    {
        "custom_id": row["id"],
        "method": "POST",
        "url": "/v1/rerank",
        "body": {"query": row["query"], "documents": d},
    }
    for row in REQUESTS
    if (d := [document["text"] for document in row["documents"]])  # type: ignore[index]
]
RANK_LLM = [
    {
        "query": {"qid": row["id"], "text": row["query"]},
        "candidates": [
            {"docid": document["id"], "score": 1.5, "doc": {"contents": document["text"]}}  # type: ignore[index]
            for document in row["documents"]
        ],
    }
    for row in REQUESTS
]
HITS = [
    {
        "query": row["query"],
        "hits": [
            {"content": one["text"], "qid": row["id"], "docid": one["id"], "rank": rank, "score": 9.5 - rank}  # type: ignore[index]
            for rank, one in enumerate(row["documents"], start=1)
        ],
    }
    for row in REQUESTS
]
LONG = "query_id,query,doc_id,text,lang\nq1,first,a,one,en\nq1,first,b,eleven,fr\nq2,второй 第二,c,二,zh\n"


def understood(path: Path | str, **options: Any) -> list[InputRow]:
    reader = Plan(Task(str(path), str(Path(path).parent / "out.jsonl"), **options)).reader
    return [reader.row(record) for record in reader.records()]


def asked(rows: list[InputRow]) -> list[dict[str, Any]]:
    return [{"id": row.id, "query": row.query, "documents": list(row.documents)} for row in rows]


def without_ids(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "documents": [document["text"] for document in row["documents"]]} for row in requests]


def lines(requests: list[Any]) -> bytes:
    return b"".join(wire.encode(row) + b"\n" for row in requests)


INPUTS: dict[str, tuple[str, bytes, list[dict[str, Any]]]] = {
    "jsonl": ("in.jsonl", lines(REQUESTS), REQUESTS),
    "blank lines": ("in.jsonl", lines(REQUESTS).replace(b"\n", b"\r\n\n  \n"), REQUESTS),
    "no last newline": ("in.ndjson", lines(REQUESTS).rstrip(), REQUESTS),
    "gz": ("in.jsonl.gz", gzip.compress(lines(REQUESTS)), REQUESTS),
    "zst": ("in.jsonl.zst", wire.compress(lines(REQUESTS)), REQUESTS),
    "openai batch": ("in.jsonl", lines(BATCH), without_ids(REQUESTS)),
    "rank_llm": ("in.jsonl", lines(RANK_LLM), REQUESTS),
    "an array": ("in.json", json.dumps(REQUESTS).encode(), REQUESTS),
    "an array, pretty": (
        "in.jsonl",
        b"\n " + json.dumps(REQUESTS, indent=2, ensure_ascii=False).encode(),
        REQUESTS,
    ),
    "objects, pretty": (
        "in.json",
        "\n".join(json.dumps(row, indent=1, ensure_ascii=False) for row in REQUESTS).encode(),
        REQUESTS,
    ),
    "an array of batch lines": (
        "in.json.gz",
        gzip.compress(json.dumps(BATCH).encode()),
        without_ids(REQUESTS),
    ),
    "an array of nothing": ("in.json", b" [ ] ", []),
    "rank_llm as published": ("in.json", json.dumps(HITS, indent=1).encode(), REQUESTS),
    "rank_llm's hits as lines": ("in.jsonl", lines(HITS), REQUESTS),
    "csv": ("in.csv", LONG.encode(), REQUESTS),
    "csv of Excel": ("in.csv", b"\xef\xbb\xbf" + LONG.replace("\n", "\r\n").encode(), REQUESTS),
    "tsv": ("in.tsv", LONG.replace(",", "\t").encode(), REQUESTS),
}


@pytest.mark.parametrize(("name", "content", "requests_"), INPUTS.values(), ids=INPUTS)
def test_every_text_format_gives_the_same_requests(
    tmp_path: Path, name: str, content: bytes, requests_: list[dict[str, Any]]
) -> None:
    (tmp_path / name).write_bytes(content)

    assert asked(understood(tmp_path / name)) == requests_


@pytest.fixture
def trec(tmp_path: Path) -> dict[str, str]:
    run_lines = ["q1 Q0 b 2 3.5 bm25", "q1 Q0 a 1 4.5 bm25", "q2 Q0 c 1 1.5 bm25", "q3 Q0 nowhere 1 1 bm25"]
    (tmp_path / "in.trec").write_text("\n".join(run_lines))
    corpus = [{"_id": d["id"], "text": d["text"]} for row in REQUESTS for d in row["documents"]]  # type: ignore[index]
    queries = [*REQUESTS, {"id": "q3", "query": "third"}]
    return {
        "input": str(tmp_path / "in.trec"),
        "corpus": write(tmp_path / "corpus.jsonl", corpus),
        "queries": write(tmp_path / "q.jsonl", [{"_id": row["id"], "text": row["query"]} for row in queries]),
    }


def test_a_trec_run_gets_its_texts_from_the_beir_files(trec: dict[str, str]) -> None:
    path = trec.pop("input")
    rows = understood(path, **trec)

    assert asked(rows[:2]) == REQUESTS
    assert str(rows[2].error).startswith("not in the corpus: nowhere; --missing skip")
    assert [len(row.documents) for row in understood(path, depth=1, **trec)[:2]] == [1, 1]


def test_a_title_stands_before_its_text(tmp_path: Path) -> None:
    (tmp_path / "in.trec").write_text("q Q0 d 1 1.0 x\n")
    corpus = write(tmp_path / "c.jsonl", [{"_id": "d", "title": "Title", "text": "body"}])
    queries = write(tmp_path / "q.jsonl", [{"_id": "q", "text": "?"}])

    row = understood(tmp_path / "in.trec", corpus=corpus, queries=queries)[0]

    assert row.documents == [{"id": "d", "text": "Title body"}]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_parquet_and_arrow_give_the_same_requests(tmp_path: Path, kind: str) -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.Table.from_pylist(REQUESTS)
    path = tmp_path / f"in.{'parquet' if kind == 'parquet' else 'arrow'}"
    if kind == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(table, path)
    else:
        opened = arrow.ipc.new_file if kind == "arrow" else arrow.ipc.new_stream
        with opened(str(path), table.schema) as file:
            file.write_table(table)

    assert asked(understood(path)) == REQUESTS


def test_fields_may_have_other_names(tmp_path: Path) -> None:
    write(
        tmp_path / "in.jsonl",
        [{"qid": 7, "question": "q", "passages": [{"pid": 1, "body": "t"}], "split": "dev"}],
    )
    names = {"query": "question", "documents": "passages", "id": "qid", "text": "body", "document_id": "pid"}

    row = understood(tmp_path / "in.jsonl", names=names)[0]

    assert (row.id, row.query, row.documents, row.extra) == (
        7,
        "q",
        [{"text": "t", "id": "1"}],
        {"split": "dev"},
    )


BROKEN = {
    "no JSON": (b"{", "expected a JSON object, got none: unexpected end of data, column 2"),
    "no object": (b"[1]", "expected a JSON object, got list"),
    "no UTF-8": (
        b'{"query": "\xff", "documents": ["a"]}',
        "expected a JSON object, got none: str is not valid UTF-8: surrogates not allowed, column 1",
    ),
    "no query": (b'{"documents": ["a"]}', "query: is missing; fields seen: documents"),
    "no documents": (b'{"query": "q"}', "documents: is missing; fields seen: query"),
    "documents as text": (
        b'{"query": "q", "documents": "abc"}',
        "documents: expected a list of strings, got one string",
    ),
    "document as number": (
        b'{"query": "q", "documents": [1]}',
        "documents[0]: expected a string or {text, id}",
    ),
    "empty query": (b'{"query": " ", "documents": ["a"]}', "query: expected a query, got an empty string"),
}


@pytest.mark.parametrize(("line", "reason"), BROKEN.values(), ids=BROKEN)
def test_a_broken_row_says_what_is_wrong_with_it(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, line: bytes, reason: str
) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines(REQUESTS[:1]) + line + b"\n" + lines(REQUESTS[1:]))

    summary = run(client, tmp_path / "in.jsonl", tmp_path / "out.jsonl")

    assert (summary.failures, summary.reasons) == ({"InvalidRequest": 1}, [f"row 1: {reason}"])
    failed = (tmp_path / "out.jsonl.errors.jsonl").read_bytes().rstrip()
    assert failed.startswith(line.rstrip(b"}"))
    assert [line["id"] for line in read(tmp_path / "out.jsonl")] == ["q1", "q2"]


def test_lines_of_a_query_in_two_places_stop_the_run(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text(LONG + "q1,first,z,late,en\n")

    with pytest.raises(InvalidRequest, match="lines of query q1 to be neighbours"):
        run(client, tmp_path / "in.csv", tmp_path / "out.csv")


def test_an_input_that_is_cut_off_says_where(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    whole = gzip.compress(lines(REQUESTS * 500))
    (tmp_path / "in.jsonl.gz").write_bytes(whole[: len(whole) * 2 // 3])

    with pytest.raises(InvalidRequest, match=r"in.jsonl.gz cannot be read after [\d,]+ rows: EOFError"):
        run(client, tmp_path / "in.jsonl.gz", tmp_path / "out.jsonl")


class TestOutputs:
    """What each format's users get back, from the worker that prefers long texts."""

    @pytest.fixture
    def answers(self, client: RerankClient, worker: AnsweringWorker, tmp_path: Path) -> Any:
        assert worker.packs == []

        def ask(given: str, out: str, **options: Any) -> bytes:
            run(client, given, tmp_path / out, **options)
            return (tmp_path / out).read_bytes()

        return ask

    def test_openai_batch_lines(self, answers: Any, tmp_path: Path) -> None:
        BATCH[0]["body"]["top_n"] = 1
        got = answers(write(tmp_path / "in.jsonl", BATCH), "out.jsonl")

        first = wire.decode(got.splitlines()[0])
        assert (first["custom_id"], first["error"], first["response"]["status_code"]) == ("q1", None, 200)
        assert [result["index"] for result in first["response"]["body"]["results"]] == [1]

    def test_vllm_score_lines(self, answers: Any, tmp_path: Path) -> None:
        bodies = [{"text_1": "q", "text_2": ["a", "bbb", "cc"]}, {"queries": ["q"], "documents": "a"}]
        given = [{"custom_id": f"c{n}", "url": "/v1/score", "body": body} for n, body in enumerate(bodies)]

        got = answers(write(tmp_path / "in.jsonl", [*given, BATCH[1]]), "out.jsonl", options={"top_n": 1})

        first, second, third = (wire.decode(line)["response"]["body"] for line in got.splitlines())
        assert [(one["index"], one["object"]) for one in first["data"]] == [(n, "score") for n in range(3)]
        assert max(first["data"], key=lambda one: one["score"])["index"] == 1
        assert (len(second["data"]), first["object"]) == (1, "list")
        assert [result["index"] for result in third["results"]] == [0]

    def test_rank_llm_candidates(self, answers: Any, tmp_path: Path) -> None:
        got = answers(write(tmp_path / "in.jsonl", RANK_LLM), "out.jsonl")

        first = wire.decode(got.splitlines()[0])
        assert first["query"] == RANK_LLM[0]["query"]
        assert [candidate["docid"] for candidate in first["candidates"]] == ["b", "a"]
        assert first["candidates"][0]["doc"] == {"contents": "eleven"}
        assert first["candidates"][0]["score"] != 1.5

    def test_rank_llm_hits(self, answers: Any, tmp_path: Path) -> None:
        (tmp_path / "in.json").write_text(json.dumps(HITS))

        first, second = map(wire.decode, answers(str(tmp_path / "in.json"), "out.json").splitlines())

        assert first["query"] == "first"
        assert [(hit["docid"], hit["rank"], hit["qid"]) for hit in first["hits"]] == [
            ("b", 1, "q1"),
            ("a", 2, "q1"),
        ]
        assert first["hits"][0]["score"] > first["hits"][1]["score"]
        assert second["hits"][0]["content"] == "二"

    def test_csv_carries_the_further_columns(self, answers: Any, tmp_path: Path) -> None:
        (tmp_path / "in.csv").write_text(LONG)

        got = list(csv.DictReader(io.StringIO(answers(str(tmp_path / "in.csv"), "out.csv").decode())))

        assert [(line["query_id"], line["doc_id"], line["rank"], line["lang"]) for line in got] == [
            ("q1", "b", "1", "fr"),
            ("q1", "a", "2", "en"),
            ("q2", "c", "1", "zh"),
        ]

    def test_trec(self, answers: Any, trec: dict[str, str]) -> None:
        got = answers(trec.pop("input"), "out.trec", **trec).decode().splitlines()

        assert got == ["q1 Q0 b 1 0.6 rerankq", "q1 Q0 a 2 0.3 rerankq", "q2 Q0 c 1 0.1 rerankq"]

    @pytest.mark.parametrize("kind", ["parquet", "arrow"])
    def test_columns(self, answers: Any, tmp_path: Path, kind: str) -> None:
        arrow = pytest.importorskip("pyarrow")
        given = write(tmp_path / "in.jsonl", [{**row, "lang": "en"} for row in REQUESTS])

        answers(given, f"out.{kind}")

        path = str(tmp_path / f"out.{kind}")
        read_parquet = pytest.importorskip("pyarrow.parquet").read_table
        table = read_parquet(path) if kind == "parquet" else arrow.ipc.open_file(path).read_all()
        rows = table.to_pylist()
        assert [row["id"] for row in rows] == ["q1", "q2"]
        assert [result["id"] for result in rows[0]["results"]] == ["b", "a"]
        assert rows[0]["lang"] == "en"

    def test_documents_come_from_the_callers_own_copy(self, answers: Any, tmp_path: Path) -> None:
        got = answers(write(tmp_path / "in.jsonl", REQUESTS), "out.jsonl", with_documents=True)

        results = wire.decode(got.splitlines()[0])["results"]
        assert [result["document"] for result in results] == ["eleven", "one"]

    def test_a_row_without_an_id_is_named_by_its_place(self, answers: Any, tmp_path: Path) -> None:
        given = [{"query": "q", "documents": ["a"]}, {"query": "q", "documents": ["b"]}]

        got = answers(write(tmp_path / "in.jsonl", given), "out.jsonl")

        assert [wire.decode(line)["row"] for line in got.splitlines()] == [0, 1]


def test_the_format_is_told_by_extension_then_by_the_first_line(tmp_path: Path) -> None:
    def told(path: str, line: dict[str, Any] | None = None, asked: str | None = None) -> str:
        write(tmp_path / path, [line])
        return input_format(Input(str(tmp_path / path)), asked).name

    assert told("a.csv") == "csv"
    assert told("a.jsonl", BATCH[0]) == "openai-batch"
    assert told("a.jsonl", RANK_LLM[0], "jsonl") == "jsonl"
    assert output_format("-", FORMATS["parquet"], None, is_stream=True).name == "jsonl"
    assert output_format("o.parquet", FORMATS["trec"], None, is_stream=False).name == "parquet"
    with pytest.raises(InvalidRequest, match="cannot be told from its extension"):
        told("a.bin")
    with pytest.raises(InvalidRequest, match="got excel"):
        told("a.csv", None, "excel")


def test_rows_of_a_table_that_failed_keep_their_columns_when_asked_again(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in.csv").write_text(LONG.replace("first", "poison"))
    run(client, tmp_path / "in.csv", tmp_path / "out.csv")
    monkeypatch.setattr("tests.bulk.answering.POISON", "poison no more")

    summary = run(client, tmp_path / "in.csv", tmp_path / "out.csv", retry_errors=True)

    assert (summary.rows, summary.failed) == (2, 0)
    got = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [(line["query_id"], line["doc_id"], line["lang"]) for line in got] == [
        ("q2", "c", "zh"),
        ("q1", "b", "fr"),
        ("q1", "a", "en"),
    ]


CLAIM = '"Earth is flat'  # a quote that is opened and, as in real claims, never closed
TABLES: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "tsv with a quote": ("in.tsv", f"query_id\tquery\ttext\nq\tq\t{CLAIM}\n", {}, CLAIM),
    "csv with a quoted field": ("in.csv", 'query_id,query,text\nq,q,"a, ""b"""\n', {}, 'a, "b"'),
    "csv without quotes": ("in.csv", f"query_id,query,text\nq,q,{CLAIM}\n", {"is_quoted": False}, CLAIM),
    "tsv with quotes": ("in.tsv", 'query_id\tquery\ttext\nq\tq\t"a\tb"\n', {"is_quoted": True}, "a\tb"),
    "semicolons": ("in.csv", "query_id;query;text\nq;q;a,b\n", {"delimiter": ";"}, "a,b"),
}


@pytest.mark.parametrize(("name", "content", "options", "text"), TABLES.values(), ids=TABLES)
def test_quotes_are_a_csv_s_and_not_a_tsv_s(
    tmp_path: Path, name: str, content: str, options: dict[str, Any], text: str
) -> None:
    (tmp_path / name).write_text(content)

    assert understood(tmp_path / name, **options)[0].documents == [{"text": text}]


WRONG_TABLES = {
    "open quote": (
        f"query_id,query,text\nq,q,a\nq,q,{CLAIM}\nq,q,b\n",
        "line 3 of .*unexpected end.*--no-quote",
    ),
    "text after a quote": ('query_id,query,text\nq,q,"a"b\n', "line 2 of .*--no-quote"),
    "too many columns": ("query_id,query,text\nq,q,a,b\n", "line 2 of .*expected 3 columns, got 4"),
    "a column twice": (
        "query_id,query,text,text\nq,q,a,b\n",
        "line 1 .* column 4 is called like one before it",
    ),
}


@pytest.mark.parametrize(("content", "message"), WRONG_TABLES.values(), ids=WRONG_TABLES)
def test_a_csv_is_read_strictly_and_its_line_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "in.csv").write_text(content)

    with pytest.raises(InvalidRequest, match=message):
        understood(tmp_path / "in.csv")


@pytest.mark.parametrize(
    ("lines_", "id_", "reason"),
    [
        ("q,Paris,a\nq,Madrid,b\n", "q", "lines of q differ in query"),
        (",Paris,a\n", None, "query_id: expected an id"),
    ],
    ids=["two queries under one id", "no id"],
)
def test_lines_that_make_no_request_together_are_an_error_of_that_id(
    tmp_path: Path, lines_: str, id_: str | None, reason: str
) -> None:
    (tmp_path / "in.csv").write_text(f"query_id,query,text\n{lines_}")

    [row] = understood(tmp_path / "in.csv")

    assert (row.id, reason in str(row.error)) == (id_, True)
    assert [document["text"] for document in row.source["documents"]] == list("ab")[: lines_.count("\n")]


ENCODED: dict[str, tuple[bytes, dict[str, Any]]] = {
    "gzip under another name": (gzip.compress(lines(REQUESTS)), {}),
    "zstd under another name": (wire.compress(lines(REQUESTS)), {}),
    "a mark of byte order": (b"\xef\xbb\xbf" + lines(REQUESTS), {}),
    "utf-16": (lines(REQUESTS).decode().encode("utf-16"), {}),
    "utf-32": (lines(REQUESTS).decode().encode("utf-32"), {}),
    "gbk": (lines(REQUESTS).decode().encode("gb18030"), {"encoding": "gb18030"}),
}


@pytest.mark.parametrize(("content", "options"), ENCODED.values(), ids=ENCODED)
def test_what_an_input_is_packed_in_is_seen_from_its_bytes(
    tmp_path: Path, content: bytes, options: dict[str, Any]
) -> None:
    (tmp_path / "in.jsonl").write_bytes(content)

    assert asked(understood(tmp_path / "in.jsonl", **options)) == REQUESTS


NO_TEXT: dict[str, tuple[str, bytes, str]] = {
    "bzip2": ("in.jsonl", bz2.compress(lines(REQUESTS)), "got bzip2; unpack it into a pipe, `bzip2 -dc`"),
    "xz": ("in.csv", lzma.compress(LONG.encode()), "got xz; unpack it into a pipe, `xz -dc`"),
    "a spreadsheet": ("in.csv", b"PK\x03\x04\x14", "got a zip archive; .* a spreadsheet is saved as CSV"),
    "packed twice": ("in.jsonl.gz", gzip.compress(gzip.compress(lines(REQUESTS))), "got gzip within gzip"),
    "Parquet": ("in.jsonl", b"PAR1\x15\x04", "got Parquet; --format parquet"),
    "Arrow": ("in.json", b"ARROW1\0\0", "got Arrow; --format arrow"),
    "another encoding": ("in.csv", LONG.encode("gb18030"), "--encoding names"),
    "another separator": ("in.csv", LONG.replace(",", ";").encode(), "got 1 of other names;.*--delimiter"),
    "nothing": ("in.csv", b"", "expected a column query_id, got none"),
    "a header cut off": ("in.csv.gz", gzip.compress(LONG.encode())[:30], "cannot be read: EOFError"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "reason"), NO_TEXT.values(), ids=NO_TEXT)
def test_what_cannot_be_read_as_text_says_what_it_is_and_what_to_do(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(InvalidRequest, match=reason):
        run(client, tmp_path / name, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_plain_input_under_a_compressed_name_is_read(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(lines(REQUESTS))

    assert asked(understood(tmp_path / "in.jsonl.gz")) == REQUESTS


@pytest.mark.parametrize(
    "text", ["1\t2\tsecret words\tsecret text\n", "secret words\tsecret text\tsecret words\n"]
)
def test_a_first_line_that_is_no_header_is_not_shown(tmp_path: Path, text: str) -> None:
    (tmp_path / "in.tsv").write_text(text)

    with pytest.raises(InvalidRequest) as told:
        understood(tmp_path / "in.tsv")

    assert "secret" not in str(told.value)


def test_queries_without_an_id_are_all_kept_in_the_errors_file(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("query_id,query,text\n,Madrid,a\n,France,b\n")

    run(client, tmp_path / "in.csv", tmp_path / "out.csv")
    summary = run(client, tmp_path / "in.csv", tmp_path / "out.csv", retry_errors=True)

    [line] = read(tmp_path / "out.csv.errors.jsonl")
    assert line["query"] == ["Madrid", "France"]
    assert summary.failed == 1


def test_what_a_row_carries_never_takes_the_place_of_an_answer(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    row = {"qid": "q", "id": 7, "query": "q", "documents": ["a", "bb"], "results": "mine", "top_n": 1}
    write(tmp_path / "in.jsonl", [row])
    (tmp_path / "in.csv").write_text("query_id,query,text,rank\nq,q,a,mine\n")

    run(client, tmp_path / "in.jsonl", tmp_path / "out.jsonl", names={"id": "qid"})
    run(client, tmp_path / "in.jsonl", tmp_path / "from lines.csv", names={"id": "qid"})
    run(client, tmp_path / "in.csv", tmp_path / "out.csv")

    [line] = read(tmp_path / "out.jsonl")
    assert (line["id"], line["input_id"], line["input_results"]) == ("q", 7, "mine")
    assert len(line["results"]) == 1
    [carried] = csv.DictReader((tmp_path / "from lines.csv").read_text().splitlines())
    assert wire.decode(carried["extra"]) == {"id": 7, "results": "mine", "top_n": 1}
    [ranked] = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert (ranked["rank"], ranked["input_rank"]) == ("1", "mine")


def test_an_id_with_blanks_fails_its_row_in_a_trec_run(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = write(
        tmp_path / "in.jsonl", [{**row, "id": name} for row, name in zip(REQUESTS, ["a b", "c"], strict=True)]
    )

    summary = run(client, given, tmp_path / "out.trec")

    assert summary.reasons == ["row 0: an id with blanks cannot stand in a TREC run"]
    assert (tmp_path / "out.trec").read_text().split()[0] == "c"


ASKED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vLLM's top_n of all": ({"url": "/rerank", "body": {"top_n": 0}}, {"top_n": None}),
    "no activation": (
        {"url": "/v1/score", "body": {"use_activation": False, "score_threshold": 0.5}},
        {"top_n": None, "score_threshold": None, "raw_scores": True},
    ),
    "no url, a rerank": ({"body": {"top_n": 3}}, {"top_n": 3}),
    "no url, a score": ({"body": {"text_1": "q", "query": None}}, {}),
    "whole": ({"body": {"long_documents": "windows"}}, {"long_documents": "windows"}),
    "whole, in Cohere's words": ({"body": {"max_chunks_per_doc": 3}}, {"max_windows_per_doc": 3}),
}  # fmt: skip


@pytest.mark.parametrize(("line", "options"), ASKED.values(), ids=ASKED)
def test_a_batch_line_says_what_it_asks_for(
    tmp_path: Path, line: dict[str, Any], options: dict[str, Any]
) -> None:
    body = {"query": "q", "documents": ["a"], **line["body"]}

    [row] = understood(write(tmp_path / "in.jsonl", [{"custom_id": "c", **line, "body": body}]))

    assert (row.query, row.documents, row.options) == ("q", ["a"], options)


NOT_SERVED = {
    "another url": (
        {"url": "/v1/embeddings", "body": {"input": "a"}},
        "url: expected one that ends in /rerank or /score, got /v1/embeddings",
    ),
    "several queries": (
        {"url": "/score", "body": {"text_1": ["a", "b"], "text_2": ["c", "d"]}},
        "expected one query in a line, got 2",
    ),
}


@pytest.mark.parametrize(("line", "reason"), NOT_SERVED.values(), ids=NOT_SERVED)
def test_a_batch_line_that_is_not_served_says_why(tmp_path: Path, line: dict[str, Any], reason: str) -> None:
    [row] = understood(write(tmp_path / "in.jsonl", [{"custom_id": "c", **line}]))

    assert str(row.error) == reason


def test_a_batch_line_s_model_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(lines([{**BATCH[0], "body": {**BATCH[0]["body"], "model": "other"}}]))

    assert understood(tmp_path / "in.jsonl")[0].options["model"] == "other"


UNREADABLE: dict[str, tuple[str, bytes]] = {
    "a line that is no JSON": ("in.jsonl", b"x" * 1000),
    "a text for an object": ("in.jsonl", b'"%b"' % (b"x" * 1000)),
    "lines that differ in their query": ("in.csv", b"query_id,query,text\n1,a,%b\n1,b,\n" % (b"x" * 1000)),
    "a row of a batch": (
        "in.jsonl",
        b'{"custom_id": 1, "url": "/chat", "body": {"x": "%b"}}' % (b"x" * 1000),
    ),
}


@pytest.mark.parametrize(("name", "content"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_row_that_cannot_be_read_weighs_what_it_holds(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)

    [row] = understood(tmp_path / name)

    assert row.error is not None
    assert row.size_bytes >= 1000


def test_documents_that_a_corpus_lacks_are_all_named_or_left_out(trec: dict[str, str]) -> None:
    path = Path(trec.pop("input"))
    path.write_text("q1 Q0 x 1 3 b\nq1 Q0 a 2 2 b\nq1 Q0 y 3 1 b\n")

    [refused] = understood(path, **trec)
    [kept] = understood(path, skips_missing=True, **trec)

    assert "not in the corpus: x, y" in str(refused.error)
    assert [document["id"] for document in kept.documents] == ["a"]


def test_an_id_with_several_texts_is_scored_with_none_of_them(trec: dict[str, str]) -> None:
    for name, fields in (
        ("corpus", {"_id": "b", "text": "another"}),
        ("queries", {"_id": "q2", "text": "?"}),
    ):
        with Path(trec[name]).open("ab") as more:
            more.write(lines([fields, fields]))
    path = trec.pop("input")

    rows = understood(path, **trec)

    assert [row.id for row in rows[:2]] == ["q1", "q2"]
    assert "several texts in the corpus: b" in str(rows[0].error)
    assert "q2 has several texts in the queries" in str(rows[1].error)


def test_an_input_of_another_shape_stops_at_once_and_says_what_it_has(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = write(tmp_path / "in.jsonl", [{"question": f"q{n}", "told": ["a"]} for n in range(5000)])

    with pytest.raises(
        InvalidRequest, match="documents: is missing; fields seen: question, told; --query-field"
    ):
        run(client, given, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]
