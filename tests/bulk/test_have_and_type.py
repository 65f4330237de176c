"""The table of docs/bulk.md, line by line: a smallest sample of what somebody has, the very command, a right ranking.

A line without a sample fails here, and so does a sample without a line. The worker prefers long texts.
"""

import csv
import gzip
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from rerankq.cli import main
from rerankq.contract import wire
from tests.bulk.answering import AnsweringWorker
from tests.conftest import REPOSITORY
from tests.redis_server import RedisServer

TABLE = re.compile(r"^\| (?P<have>.+?) \| `(?P<command>.*\brerankq bulk .+)` \|$", re.MULTILINE)
QUOTED = re.compile(r"'[^']*'")
OF_A_SHELL = re.compile(r"[|<>*?$]")
SHELL = f'rerankq() {{ {shlex.quote(sys.executable)} -m rerankq.cli "$@"; }}; set -o pipefail; '

QUERIES = {"q0": "capital of France", "q1": "中国的首都"}
TEXTS = {
    "q0": ["Lyon", "Paris is the capital of France", "It is Paris"],
    "q1": ["上海", "北京是中国的首都"],
}
Ranked = list[tuple[int, list[int]]]
BEST_FIRST: Ranked = [(0, [1, 2, 0]), (1, [1, 0])]
"""Queries in their order, by number, with the numbers of their documents."""

Maker = Callable[[Path], object]


@dataclass(frozen=True)
class Sample:
    """The smallest of its kind."""

    files: Mapping[str, bytes | Maker]
    """By name: the content, or what makes it."""
    ranked: Ranked
    says: str


def sample(files: Mapping[str, bytes | Maker], *, ranked: Ranked = BEST_FIRST, says: str = "") -> Sample:
    """`says`: what the command prints besides."""
    return Sample(files, ranked, says)


def jobs(
    query: str = "query", documents: str = "documents", id_: str = "id", text: str = "text", **more: Any
) -> list[dict[str, Any]]:
    """One object per query, its documents `{"id": "d0", "text": …}`."""
    return [
        {
            id_: name,
            query: QUERIES[name],
            documents: [{"id": f"d{place}", text: one} for place, one in enumerate(texts)],
            **more,
        }
        for name, texts in TEXTS.items()
    ]


def lines(rows: list[Any]) -> bytes:
    return b"".join(wire.encode(row) + b"\n" for row in rows)


def long_form(delimiter: str = ",", quote: str = "") -> str:
    """One line per document."""
    table = [["query_id", "query", "doc_id", "text"]]
    table += [
        [name, QUERIES[name], f"d{place}", text]
        for name, texts in TEXTS.items()
        for place, text in enumerate(texts)
    ]
    return "".join(delimiter.join(f"{quote}{field}{quote}" for field in line) + "\n" for line in table)


def parts(table: str) -> tuple[str, str]:
    """Two tables of one, a query's lines in both."""
    header, *rest = table.splitlines(keepends=True)
    return "".join([header, *rest[:2]]), "".join([header, *rest[2:]])


def parquet(path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(jobs()), path)


def long_parquet(path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    rows = list(csv.DictReader(long_form().splitlines()))
    pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)


def zipped(path: Path) -> None:
    pytest.importorskip("fsspec")
    with ZipFile(path, "w") as archive:
        archive.writestr("jobs.jsonl", lines(jobs()))


def arrow_file(path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.Table.from_pylist(jobs())
    with arrow.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


BATCH = lines(
    [{"custom_id": name, "body": {"query": QUERIES[name], "documents": TEXTS[name]}} for name in TEXTS]
)
SCORES = [
    {"custom_id": name, "url": "/v1/score", "body": {"text_1": QUERIES[name], "text_2": TEXTS[name]}}
    for name in TEXTS
]
REQUESTS = [
    {"text_1": QUERIES["q0"], "text_2": TEXTS["q0"]},
    {"query": QUERIES["q1"], "texts": TEXTS["q1"], "raw_scores": False},
]
RANK_LLM = lines(
    [
        {
            "query": {"qid": name, "text": QUERIES[name]},
            "candidates": [
                {"docid": f"d{place}", "score": -place, "doc": {"contents": text}}
                for place, text in enumerate(texts)
            ],
        }
        for name, texts in TEXTS.items()
    ]
)
HITS = [
    {
        "query": QUERIES[name],
        "hits": [
            {"content": text, "qid": name, "docid": f"d{place}", "rank": place + 1, "score": 9 - place}
            for place, text in enumerate(texts)
        ],
    }
    for name, texts in TEXTS.items()
]
RUN = "".join(
    f"{name} Q0 {name}d{place} {place} {9 - place} bm25\n"
    for name, texts in TEXTS.items()
    for place in range(len(texts))
).encode()
BEIR: dict[str, bytes | Maker] = {
    "bm25.trec": RUN,
    "queries.jsonl": lines([{"_id": name, "text": text} for name, text in QUERIES.items()]),
    "corpus.jsonl": lines(
        [
            {"_id": f"{name}d{place}", "text": text}
            for name, texts in TEXTS.items()
            for place, text in enumerate(texts)
        ]
    ),
}
ANSERINI = lines(
    [
        {"id": f"{name}d{place}", "contents": text}
        for name, texts in TEXTS.items()
        for place, text in enumerate(texts)
    ]
)
COLLECTION = "".join(
    f"{name}d{place}\t{text}\n" for name, texts in TEXTS.items() for place, text in enumerate(texts)
).encode()
TOPICS = "".join(f"{name}\t{text}\n" for name, text in QUERIES.items()).encode()
MARCO = [
    {
        "query": QUERIES[name],
        "query_id": name,
        "passages": {"passage_text": texts, "is_selected": [int(place == 1) for place in range(len(texts))]},
    }
    for name, texts in TEXTS.items()
]
NODES = [
    {
        "id": name,
        "query": QUERIES[name],
        "nodes": [
            {"node": {"id_": f"d{place}", "text": text}, "score": 0.5} for place, text in enumerate(texts)
        ],
    }
    for name, texts in TEXTS.items()
]
TOP_1000 = "".join(
    f"{name}\td{place}\t{QUERIES[name]}\t{text}\n"
    for name, texts in TEXTS.items()
    for place, text in enumerate(texts)
).encode()
BEST_AT_FRONT: Ranked = [(0, [0, 2, 1]), (1, [0, 1])]
"""Of training rows, whose positives come first."""


def training(positive: str, negative: str) -> list[dict[str, Any]]:
    """The best text of each query apart from the others."""
    return [
        {"query": QUERIES[name], positive: [best], negative: [text for text in texts if text is not best]}
        for name, texts in TEXTS.items()
        for best in [texts[1]]
    ]


def titled(positive: str, negative: str) -> list[dict[str, Any]]:
    """The same as passages with a title."""
    return [
        {
            **row,
            **{name: [{"title": "T", "text": text} for text in row[name]] for name in (positive, negative)},
        }
        for row in training(positive, negative)
    ]


QRELS = b"query-id\tcorpus-id\tscore\nq0\td1\t1\nq1\td1\t1\n"

SAMPLES: dict[str, Sample] = {
    "rerankq bulk 'zip://jobs.jsonl::jobs.zip' ranked.jsonl": sample({"jobs.zip": zipped}),
    "rerankq bulk old.trec reranked.trec --queries queries.jsonl --corpus corpus.jsonl --missing skip": sample(
        {**BEIR, "old.trec": RUN + b"q1 Q0 deleted 9 0 bm25\n"}
    ),
    "rerankq bulk jobs.jsonl ranked.jsonl": sample({"jobs.jsonl": lines(jobs())}),
    "rerankq bulk jobs.jsonl ranked.jsonl --long-documents windows": sample({"jobs.jsonl": lines(jobs())}),
    "rerankq bulk jobs.jsonl ranked.jsonl --threshold 0.6": sample(
        {"jobs.jsonl": lines(jobs())}, ranked=[(0, [1, 2]), (1, [1])]
    ),
    "rerankq bulk dump.jsonl ranked.jsonl.zst": sample({"dump.jsonl": gzip.compress(lines(jobs()))}),
    "rerankq bulk faq.jsonl ranked.jsonl --query-field ask --documents-field answers --id-field key --text-field "
    "reply": sample({"faq.jsonl": lines(jobs("ask", "answers", "key", "reply"))}),
    "rerankq bulk miracl.jsonl ranked.jsonl --text-field title,text": sample(
        {"miracl.jsonl": lines(titled("positive_passages", "negative_passages"))},
        ranked=BEST_AT_FRONT,
        says="1.0000 after, over 2 judged jobs",
    ),
    "rerankq bulk nq.json ranked.jsonl --text-field title,text": sample(
        {"nq.json": json.dumps(jobs("question", "ctxs"), indent=2).encode()}
    ),
    "rerankq bulk marco.jsonl ranked.jsonl --documents-field passages.passage_text --relevant-field "
    "passages.is_selected": sample(
        {"marco.jsonl": lines(MARCO)}, says="1.0000 after, over 2 judged jobs"
    ),
    "rerankq bulk nodes.jsonl ranked.jsonl --documents-field nodes --text-field node.text "
    "--document-id-field node.id_": sample(
        {"nodes.jsonl": lines(NODES)}
    ),
    "rerankq bulk mteb.jsonl ranked.jsonl": sample(
        {"mteb.jsonl": lines(training("positive", "negative"))},
        ranked=BEST_AT_FRONT,
        says="1.0000 after, over 2 judged jobs",
    ),
    "rerankq bulk train.jsonl ranked.jsonl": sample(
        {"train.jsonl": lines(training("pos", "neg"))}, ranked=BEST_AT_FRONT, says="1.0000 after"
    ),
    "rerankq bulk lists.jsonl ranked.jsonl --documents-field gold,other --relevant-field gold": sample(
        {"lists.jsonl": lines(training("gold", "other"))}, ranked=BEST_AT_FRONT, says="1.0000 after"
    ),
    "rerankq bulk batch.jsonl answers.jsonl": sample({"batch.jsonl": BATCH}),
    "rerankq bulk scores.jsonl answers.jsonl": sample({"scores.jsonl": lines(SCORES)}),
    "rerankq bulk requests.jsonl ranked.jsonl": sample({"requests.jsonl": lines(REQUESTS)}),
    "rerankq bulk retrieved.jsonl reranked.jsonl": sample({"retrieved.jsonl": RANK_LLM}),
    "rerankq bulk retrieve_results.json reranked.jsonl": sample({"retrieve_results.json": json.dumps(HITS).encode()}),
    "rerankq bulk jobs.json ranked.jsonl": sample({"jobs.json": json.dumps(jobs(), indent=2).encode()}),
    "rerankq bulk pairs.csv ranked.csv": sample({"pairs.csv": long_form().encode()}),
    "rerankq bulk pairs.csv ranked.csv --encoding gbk --delimiter ';'": sample(
        {"pairs.csv": long_form(";").encode("gbk")}
    ),
    "rerankq bulk pairs.tsv ranked.tsv": sample({"pairs.tsv": long_form("\t").encode()}),
    "rerankq bulk pairs.tsv ranked.tsv --quote": sample({"pairs.tsv": long_form("\t", '"').encode()}),
    "rerankq bulk top1000.tsv ranked.tsv --columns qid,pid,query,passage": sample({"top1000.tsv": TOP_1000}),
    "rerankq bulk jobs.parquet ranked.parquet": sample({"jobs.parquet": parquet}),
    "rerankq bulk pairs.parquet ranked.parquet": sample({"pairs.parquet": long_parquet}),
    "rerankq bulk jobs.arrow ranked.jsonl": sample({"jobs.arrow": arrow_file}),
    "rerankq bulk bm25.trec reranked.trec --queries queries.jsonl --corpus corpus.jsonl": sample(BEIR),
    "rerankq bulk shards ranked.jsonl": sample(
        {"shards/part-2.jsonl": lines(jobs()[:1]), "shards/part-10.jsonl.gz": gzip.compress(lines(jobs()[1:]))}
    ),
    "rerankq bulk 'part-*.csv' ranked.csv": sample(
        {f"part-{number}.csv": part.encode() for number, part in zip((2, 10), parts(long_form()), strict=True)}
    ),
    "rerankq bulk jobs.jsonl first.jsonl --limit 1": sample({"jobs.jsonl": lines(jobs())}, ranked=BEST_FIRST[:1]),
    "rerankq bulk mixed.jsonl zh.jsonl --where lang=zh": sample(
        {"mixed.jsonl": lines([{**row, "lang": lang} for row, lang in zip(jobs(), ("en", "zh"), strict=True)])},
        ranked=BEST_FIRST[1:],
    ),
    "rerankq bulk pairs.csv ranked.csv --output-columns query_id,doc_id,relevance_score": sample(
        {"pairs.csv": long_form().encode()}
    ),
    "rerankq bulk jobs.jsonl ranked-2.jsonl --shard 2/2": sample(
        {"jobs.jsonl": lines(jobs())}, ranked=BEST_FIRST[1:]
    ),
    "rerankq bulk run.bm25.trec reranked.trec --queries topics.tsv --corpus collection.jsonl.gz": sample(
        {"run.bm25.trec": BEIR["bm25.trec"], "topics.tsv": TOPICS, "collection.jsonl.gz": gzip.compress(ANSERINI)}
    ),
    "rerankq bulk run.trec reranked.trec --queries queries.dev.tsv --corpus collection.tsv": sample(
        {"run.trec": BEIR["bm25.trec"], "queries.dev.tsv": TOPICS, "collection.tsv": COLLECTION}
    ),
    "gunzip -c jobs.gz | rerankq bulk - - > ranked.jsonl": sample({"jobs.gz": gzip.compress(lines(jobs()))}),
    "rerankq bulk jobs.jsonl ranked.csv": sample({"jobs.jsonl": lines(jobs())}),
    "rerankq bulk jobs.jsonl ranked.parquet": sample({"jobs.jsonl": lines(jobs())}),
    "rerankq bulk jobs.jsonl ranked.parquet --output-format long-parquet": sample({"jobs.jsonl": lines(jobs())}),
    "rerankq bulk pairs.csv ranked.trec": sample({"pairs.csv": long_form().encode()}),
    "rerankq bulk judged.jsonl ranked.jsonl": sample(
        {"judged.jsonl": lines(jobs(relevant={"d1": 1}))}, says="1.0000 after, over 2 judged jobs"
    ),
    "rerankq bulk jobs.jsonl ranked.jsonl --qrels qrels.tsv": sample(
        {"jobs.jsonl": lines(jobs()), "qrels.tsv": QRELS}, says="1.0000 after, over 2 judged jobs"
    ),
}  # fmt: skip
"""By command. What the output calls a query or a document ends in its number."""


def table() -> list[str]:
    """The commands of the document, as somebody copies them."""
    text = (REPOSITORY / "docs" / "bulk.md").read_text(encoding="utf-8")
    return [match["command"].replace(r"\|", "|") for match in TABLE.finditer(text)]


def test_every_line_of_the_table_has_a_sample_and_every_sample_a_line() -> None:
    assert sorted(table()) == sorted(SAMPLES)


@pytest.fixture(scope="module")
def worker(redis_server: RedisServer) -> Iterator[AnsweringWorker]:
    """One for all lines."""
    with AnsweringWorker(redis_server) as serving:
        yield serving


@pytest.fixture
def shell(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], int]]:
    """Runs a command in an empty folder: in this process, where it takes no shell; its exit code."""
    monkeypatch.setenv("RERANKQ_BROKER_URL", redis_server.url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run(command: str) -> int:
        if OF_A_SHELL.search(QUOTED.sub("", command)):
            return subprocess.run(["bash", "-c", SHELL + command], timeout=60).returncode
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("command", table())
def test_what_is_typed_ranks_what_somebody_has(
    shell: Callable[[str], int], tmp_path: Path, command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    given = SAMPLES[command]
    for name, content in given.files.items():
        _make(tmp_path / name, content)

    code = shell(command)

    said = capfd.readouterr()
    assert code == 0, said.err
    assert given.says in said.out
    assert ranked(tmp_path / written_by(command)) == given.ranked


def _make(path: Path, content: bytes | Maker) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)


def written_by(command: str) -> str:
    """OUT of a command, or what its stdout goes to."""
    words = shlex.split(command)
    return words[-1] if ">" in words else words[words.index("bulk") + 2]


def ranked(path: Path) -> Ranked:
    """What an output says, best first; its scores fall."""
    order: dict[int, list[tuple[int, float]]] = {}
    for query, document, score in _judgeable(path):
        order.setdefault(_number(query), []).append((_number(document), float(score)))
    for of_query in order.values():
        assert [score for _, score in of_query] == sorted((score for _, score in of_query), reverse=True)
    return [(query, [document for document, _ in of_query]) for query, of_query in order.items()]


def _number(name: Any) -> int:
    found = re.search(r"\d+$", str(name))
    assert found, f"expected a name that ends in its number, got {name}"
    return int(found[0])


def _judgeable(path: Path) -> Iterator[tuple[Any, Any, Any]]:
    """Query, document and score of each ranked document."""
    data = path.read_bytes()
    if path.suffix == ".zst":
        data, path = wire.decompress(data), path.with_suffix("")
    match path.suffix:
        case ".parquet":
            rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
        case ".csv" | ".tsv":
            delimiter = ";" if b";" in data.splitlines()[0] else "\t" if path.suffix == ".tsv" else ","
            for line in csv.DictReader(data.decode().splitlines(), delimiter=delimiter):
                yield line["query_id"], line["doc_id"], line["relevance_score"]
            return
        case ".trec":
            for query, _, document, _, score, _ in (line.split() for line in data.decode().splitlines()):
                yield query, document, score
            return
        case _:
            rows = [json.loads(line) for line in data.splitlines()]
    for row in rows:
        yield from _of_one(row)


def _of_one(row: dict[str, Any]) -> Iterator[tuple[Any, Any, Any]]:
    if "rank" in row:
        yield row["query_id"], row["doc_id"], row["relevance_score"]
    elif "candidates" in row:
        yield from ((row["query"]["qid"], one["docid"], one["score"]) for one in row["candidates"])
    elif "hits" in row:
        yield from ((one["qid"], one["docid"], one["score"]) for one in row["hits"])
    elif "custom_id" in row:
        body = row["response"]["body"]
        scored = [(one["index"], one["score"]) for one in body.get("data", [])]
        scored += [(one["index"], one["relevance_score"]) for one in body.get("results", [])]
        yield from ((row["custom_id"], *one) for one in sorted(scored, key=lambda one: -one[1]))
    else:
        name = row.get("id", row.get("row"))
        for one in row["results"]:
            document = one.get("id")
            yield name, one["index"] if document is None else document, one["relevance_score"]
