"""What a run or a row of it may ask of every ranking: windows, a threshold; and what becomes of it in each format."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rerankq import InvalidRequest, RerankClient
from rerankq.bulk import rerank_many, rerank_table
from rerankq.bulk.evaluate import evaluate
from tests.bulk.answering import AnsweringWorker
from tests.bulk.test_run import read, run, write

LONG, SHORT = "a document of many words", "word"
ROW: dict[str, Any] = {"id": "a", "query": "q", "documents": [SHORT, LONG]}
WINDOW = {"index": 0, "total": 2, "start": 0, "end": 3}
THRESHOLD = 0.7  # between the two


def test_the_window_that_a_score_is_of_stands_in_its_result(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    rows = [ROW, ROW | {"id": "b", "long_documents": "truncate"}]
    whole = {"long_documents": "windows"}

    run(client, write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", options=whole)
    batch = {"custom_id": "a", "url": "/v1/rerank", "body": {**ROW, "max_chunks_per_doc": 3}}
    run(client, write(tmp_path / "batch.jsonl", [batch]), tmp_path / "answers.jsonl")

    windows = [[result.get("window") for result in line["results"]] for line in read(tmp_path / "out.jsonl")]
    assert windows == [[WINDOW, WINDOW], [None, None]]
    [answer] = read(tmp_path / "answers.jsonl")
    assert answer["response"]["body"]["results"][0]["window"] == WINDOW


def test_columns_have_it_too(client: RerankClient, worker: AnsweringWorker, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [ROW | {"max_windows_per_doc": 2}, ROW | {"id": "b"}]

    run(client, write(tmp_path / "in.jsonl", rows), tmp_path / "out.parquet")

    results = parquet.read_table(tmp_path / "out.parquet").column("results").to_pylist()
    assert [one[0]["window"] for one in results] == [WINDOW, None]


def test_an_option_of_the_run_that_no_request_may_have_is_refused_before_a_row_is_asked(
    client: RerankClient, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"

    with pytest.raises(InvalidRequest, match=r"^score_threshold: expected a finite number$"):
        run(client, write(tmp_path / "in.jsonl", [ROW]), out, options={"score_threshold": math.nan})

    assert not out.exists()


LEFT_OUT = {
    ".jsonl": lambda text: [
        [one["index"] for one in json.loads(line)["results"]] for line in text.splitlines()
    ],
    ".csv": lambda text: [line.split(",")[:3] for line in text.splitlines()[1:]],
    ".trec": lambda text: [line.split()[:4] for line in text.splitlines()],
}
EXPECTED: dict[str, list[Any]] = {
    ".jsonl": [[1], []],
    ".csv": [["a", "1", "1"]],
    ".trec": [["a", "Q0", "1", "1"]],
}


@pytest.mark.parametrize("extension", LEFT_OUT)
def test_what_is_below_the_threshold_has_no_line(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, extension: str
) -> None:
    rows = [ROW, {"id": "b", "query": "q", "documents": [SHORT]}]
    out = tmp_path / f"out{extension}"

    summary = run(client, write(tmp_path / "in.jsonl", rows), out, options={"score_threshold": THRESHOLD})

    assert (summary.rows, summary.failed, summary.pairs) == (2, 0, 3)
    assert LEFT_OUT[extension](out.read_text()) == EXPECTED[extension]


@pytest.mark.parametrize("where", ["run", "row"])
def test_a_threshold_hides_no_order_from_judgements(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, where: str
) -> None:
    pytest.importorskip("ir_measures")
    asked = {"score_threshold": THRESHOLD}
    rows = [ROW | {"documents": [LONG, SHORT], "relevant": {"0": 1}} | (asked if where == "row" else {})]
    out = tmp_path / "out.jsonl"

    summary = run(client, write(tmp_path / "in.jsonl", rows), out, options=asked if where == "run" else {})

    assert summary.quality["ndcg_before"] == summary.quality["ndcg_after"] == 1.0
    assert set(evaluate(str(out)).quality) == {"ndcg_after", "mrr_after"}, (
        "how they came is not known any more"
    )


def test_a_query_of_which_all_is_left_out_counts_as_found_nothing(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    pytest.importorskip("ir_measures")
    rows = [
        ROW | {"relevant": {"1": 1}},
        {"id": "b", "query": "q", "documents": [SHORT], "relevant": {"0": 1}},
    ]

    summary = run(
        client,
        write(tmp_path / "in.jsonl", rows),
        tmp_path / "out.jsonl",
        options={"score_threshold": THRESHOLD},
    )

    assert (summary.judged_queries, summary.quality["ndcg_after"]) == (2, 0.5)


def test_a_program_asks_for_all_or_for_one(client: RerankClient, worker: AnsweringWorker) -> None:
    asked = [ROW, ROW | {"long_documents": "truncate", "score_threshold": THRESHOLD}]

    whole, cut = (answer for _, answer in rerank_many(asked, client, max_windows_per_doc=4))

    assert [[result.window is not None for result in each] for each in (whole, cut)] == [
        [True, True],
        [False],
    ]


def test_a_table_has_a_row_for_what_is_left(client: RerankClient, worker: AnsweringWorker) -> None:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.Table.from_pylist([ROW, {"id": "b", "query": "q", "documents": [SHORT]}])

    ranked = rerank_table(table, client, score_threshold=THRESHOLD)

    assert ranked.select(["id", "index", "rank"]).to_pylist() == [{"id": "a", "index": 1, "rank": 1}]
