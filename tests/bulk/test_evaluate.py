"""What judgements say of a run, and of an output that is there, is what trec_eval says of all of it."""

import json
import sys
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import pytest

from rerankq import InvalidRequest, RerankClient
from rerankq.bulk import Task
from rerankq.bulk.dry_run import dry_run
from rerankq.bulk.evaluate import Evaluator, Verdict, evaluate, read_qrels
from rerankq.bulk.formats.fields import grades
from rerankq.bulk.rows import Ranked, by_place
from rerankq.cli import main
from tests.bulk.answering import AnsweringWorker
from tests.bulk.test_formats import lines
from tests.bulk.test_resume import half_done
from tests.bulk.test_run import run, write

trec_eval: Any = pytest.importorskip("pytrec_eval")

QUERIES = 40
QRELS = {f"q{n}": {"d0": 1, f"d{n % 4}": 2, f"d{4 + n % 3}": 0} for n in range(QUERIES)}


def documents(number: int) -> list[dict[str, str]]:
    """Five, of different lengths."""
    return [{"id": f"d{place}", "text": "a" * (1 + (number + 3 * place) % 7)} for place in range(5)]


ROWS = [{"id": f"q{n}", "query": f"query {n}", "documents": documents(n)} for n in range(QUERIES)]
JUDGED = [{**row, "relevant": QRELS[str(row["id"])]} for row in ROWS]


def batch(rows: list[Any]) -> list[Any]:
    texts = {row["id"]: [document["text"] for document in row["documents"]] for row in rows}
    return [{"custom_id": row["id"], "body": {**row, "documents": texts[row["id"]]}} for row in rows]


def rank_llm(rows: list[Any]) -> list[Any]:
    return [
        {
            "query": {"qid": row["id"], "text": row["query"]},
            "candidates": [{"docid": d["id"], "doc": {"text": d["text"]}} for d in row["documents"]],
            "relevant": row["relevant"],
        }
        for row in rows
    ]


def hits(rows: list[Any]) -> list[Any]:
    """As rank_llm publishes them."""
    return [
        {
            "query": row["query"],
            "hits": [{"qid": row["id"], "docid": d["id"], "content": d["text"]} for d in row["documents"]],
        }
        for row in rows
    ]


def means(qrels: dict[str, Any], ranked: dict[str, list[str]]) -> Any:
    """nDCG@10 and MRR@10 of short rankings, by pytrec_eval."""
    scored = {query: {d: -float(place) for place, d in enumerate(names)} for query, names in ranked.items()}
    measured = trec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10", "recip_rank"}).evaluate(scored)
    ndcg, rank = ([one[name] for one in measured.values()] for name in ("ndcg_cut_10", "recip_rank"))
    return pytest.approx((sum(ndcg) / len(ndcg), sum(rank) / len(rank)), abs=1e-9)


def by_length(row: dict[str, Any]) -> list[str]:
    return [d["id"] for d in sorted(row["documents"], key=lambda d: -len(d["text"]))]


AFTER = means(QRELS, {row["id"]: by_length(row) for row in ROWS})
BEFORE = means(QRELS, {row["id"]: [d["id"] for d in row["documents"]] for row in ROWS})


def after(verdict: Verdict) -> tuple[float, float]:
    return verdict.quality["ndcg_after"], verdict.quality["mrr_after"]


def before(verdict: Verdict) -> tuple[float, float]:
    return verdict.quality["ndcg_before"], verdict.quality["mrr_before"]


@pytest.fixture
def qrels(tmp_path: Path) -> str:
    judged = [(query, name, grade) for query, of in QRELS.items() for name, grade in of.items()]
    told = "".join(f"{query}\t{name}\t{grade}\n" for query, name, grade in judged)
    (tmp_path / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{told}")
    return str(tmp_path / "qrels.tsv")


OUTPUTS: dict[str, tuple[list[Any], str, dict[str, Any]]] = {
    "jsonl": (JUDGED, "out.jsonl", {}),
    "compressed": (JUDGED, "out.jsonl.zst", {}),
    "rank_llm": (rank_llm(JUDGED), "out.jsonl.gz", {}),
    "rank_llm's hits": (hits(ROWS), "out.jsonl", {}),
    "csv": (JUDGED, "out.csv", {}),
    "csv with semicolons": (JUDGED, "out.csv", {"delimiter": ";"}),
    "tsv": (JUDGED, "out.tsv", {}),
    "tsv with quotes": (JUDGED, "out.tsv", {"is_quoted": True, "with_documents": True}),
    "parquet": (JUDGED, "out.parquet", {}),
    "arrow": (JUDGED, "out.arrow", {}),
    "long parquet": (JUDGED, "out.parquet", {"output_format": "long-parquet"}),
    "trec": (ROWS, "out.trec", {}),
    "documents by place": (batch(ROWS), "out.jsonl", {}),
    "scores by place": ([{**line, "url": "/v1/score"} for line in batch(ROWS)], "out.jsonl", {}),
}


@pytest.mark.parametrize(("given", "out", "options"), OUTPUTS.values(), ids=OUTPUTS)
def test_an_output_of_any_format_is_judged_as_its_run_was(
    client: RerankClient,
    worker: AnsweringWorker,
    tmp_path: Path,
    qrels: str,
    given: list[Any],
    out: str,
    options: dict[str, Any],
) -> None:
    if "custom_id" in given[0]:
        Path(qrels).write_text(Path(qrels).read_text().replace("\td", "\t"))
    summary = run(client, write(tmp_path / "in.jsonl", given), tmp_path / out, qrels=qrels, **options)

    told = evaluate(str(tmp_path / out), qrels)

    assert after(summary) == AFTER
    assert after(told) == AFTER
    assert before(summary) == BEFORE
    assert (told.judged_queries, told.missing_queries, told.notes) == (QUERIES, 0, [])
    if "relevant" in given[0]:
        assert after(evaluate(str(tmp_path / out))) == AFTER


BY_PLACE = [
    {**row, "documents": [d["text"] for d in row["documents"]], "labels": [n % 4 == p for p in range(5)]}
    for n, row in enumerate(ROWS)
]
TABLE = "query_id,query,doc_id,text,relevant\n" + "".join(
    f"{row['id']},{row['query']},{d['id']},{d['text']},{'1' if d['id'] == f'd{n % 4}' else ''}\n"
    for n, row in enumerate(ROWS)
    for d in row["documents"]
)
TRAINING = [
    {
        "query": row["query"],
        "pos": [d["text"] for p, d in enumerate(row["documents"]) if n % 4 == p],
        "neg": [d["text"] for p, d in enumerate(row["documents"]) if n % 4 != p],
    }
    for n, row in enumerate(ROWS)
]
CARRIED: dict[str, tuple[str, bytes, str, str | None]] = {
    "labels by place": ("in.jsonl", lines(BY_PLACE), "out.jsonl", "labels"),
    "training rows": ("in.jsonl", lines(TRAINING), "out.jsonl", None),
    "training rows, to a table": ("in.jsonl", lines(TRAINING), "out.csv", None),
    "a column": ("in.csv", TABLE.encode(), "out.csv", None),
    "a column, to lines": ("in.csv", TABLE.encode(), "out.jsonl", None),
}


@pytest.mark.parametrize(("name", "content", "out", "field"), CARRIED.values(), ids=CARRIED)
def test_judgements_that_an_output_carries_are_read_as_its_run_read_them(
    client: RerankClient,
    worker: AnsweringWorker,
    tmp_path: Path,
    name: str,
    content: bytes,
    out: str,
    field: str | None,
) -> None:
    (tmp_path / name).write_bytes(content)
    summary = run(client, tmp_path / name, tmp_path / out, names={"relevant": field})

    told = evaluate(str(tmp_path / out), relevant_field=field)

    assert summary.judged_queries == QUERIES
    assert after(told) == pytest.approx(after(summary), abs=1e-12)


def test_grades_by_place_of_an_output_that_has_only_the_best_are_not_read(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given, out = write(tmp_path / "in.jsonl", BY_PLACE), str(tmp_path / "out.jsonl")
    run(client, given, out, names={"relevant": "labels"}, options={"top_n": 2})

    with pytest.raises(InvalidRequest, match="40 jobs carry judgements that cannot be read"):
        evaluate(out, relevant_field="labels")


@pytest.mark.parametrize("begun_with", ["none", "others"])
@pytest.mark.parametrize("done", ["half", "all"])
def test_judgements_named_only_later_are_held_against_all_of_the_output(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, qrels: str, done: str, begun_with: str
) -> None:
    given, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    (tmp_path / "others.tsv").write_text("q1 0 d3 1\n")
    first = {"qrels": str(tmp_path / "others.tsv")} if begun_with == "others" else {}
    if done == "half":
        half_done(client, given, out, after_rows=10, **first)
    else:
        run(client, given, out, **first)

    summary = run(client, given, out, qrels=qrels)

    assert 0 < summary.resumed_rows <= QUERIES
    assert after(summary) == AFTER
    assert before(summary) == BEFORE


def test_a_resumed_run_is_judged_whole(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, qrels: str
) -> None:
    given, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.trec"
    half_done(client, given, out, after_rows=10, qrels=qrels)

    summary = run(client, given, out, qrels=qrels)

    assert after(summary) == AFTER
    assert before(summary) == BEFORE


def test_a_run_begun_when_judgements_were_settings_goes_on(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, qrels: str
) -> None:
    given, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    run(client, given, out)
    sidecar = tmp_path / "out.jsonl.rerankq.json"
    sidecar.write_text(sidecar.read_text().replace('"settings": {', '"settings": {"judgements": "q.tsv",'))

    assert after(run(client, given, out, qrels=qrels)) == AFTER


def test_a_dry_run_counts_the_judged_jobs(client: RerankClient, tmp_path: Path, qrels: str) -> None:
    given, out = (
        write(tmp_path / "in.jsonl", [*ROWS, {"query": "q", "documents": ["a"]}]),
        str(tmp_path / "o"),
    )

    told = dry_run(Task(given, out, output_format="jsonl", qrels=qrels), client, 1.0)

    assert (told.rows, told.judged_rows) == (QUERIES + 1, QUERIES)


def test_judged_queries_without_a_ranking_are_counted_and_left_out_of_the_means(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, qrels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned = [{**row, "query": "poison"} if row["id"] == "q7" else row for row in JUDGED[:-2]]
    given, out = write(tmp_path / "in.jsonl", poisoned), tmp_path / "out.jsonl"
    ranked = {row["id"]: by_length(row) for row in poisoned if row["query"] != "poison"}

    by_rows, by_file = run(client, given, out), evaluate(str(out), qrels)
    monkeypatch.setattr("tests.bulk.answering.POISON", "poison no more")
    mended = run(client, given, out, retry_errors=True)

    assert after(by_rows) == means(QRELS, ranked)
    assert after(by_file) == means(QRELS, ranked)
    assert by_rows.notes == ["1 judged jobs without a ranking, 1 of them failed; they are not in the means"]
    assert (by_rows.missing_queries, by_file.missing_queries) == (1, 3)
    complete = by_file.quality["ndcg_after"] * (QUERIES - 3) / QUERIES
    assert by_file.quality_with_missing["ndcg_after"] == pytest.approx(complete)
    assert (mended.judged_queries, mended.missing_queries) == (QUERIES - 2, 0)


def test_judged_rows_that_failed_are_counted_also_by_a_level_named_only_later(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    poisoned = [{**row, "query": "poison"} if row["id"] == "q7" else row for row in JUDGED]
    given, out = write(tmp_path / "in.jsonl", poisoned), tmp_path / "out.jsonl"

    run(client, given, out)
    later, by_file = run(client, given, out, relevant_from=2), evaluate(str(out), relevant_from=2)

    assert (later.missing_queries, by_file.missing_queries) == (1, 1)
    assert later.quality_with_missing == by_file.quality_with_missing


def test_before_is_told_only_where_the_output_tells_it(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, qrels: str
) -> None:
    given = write(tmp_path / "in.jsonl", ROWS)
    run(client, given, tmp_path / "all.jsonl")
    best = run(client, given, tmp_path / "best.jsonl", options={"top_n": 1}, qrels=qrels)

    of_best = evaluate(str(tmp_path / "best.jsonl"), qrels)

    assert before(evaluate(str(tmp_path / "all.jsonl"), qrels)) == BEFORE
    assert before(best) == BEFORE
    assert sorted(of_best.quality) == ["mrr_after", "ndcg_after"]
    first = {row["id"]: by_length(row)[:1] for row in ROWS}
    assert after(of_best) == means(QRELS, first)
    assert after(best) == means(QRELS, first)


NOTES: dict[str, tuple[list[Any], str | None, str]] = {
    "other queries": (ROWS, "x 0 d1 1\n", "none of the 40 jobs, by "),
    "other documents": (ROWS, "q1 0 x 1\n", "none of the judged documents is in a ranking, by its id"),
    "no known form": (
        [{**row, "relevant": "d1, d2"} for row in ROWS],
        None,
        "40 jobs carry judgements that cannot be read: expected `relevant` as {document id: grade} or as ids",
    ),
}


@pytest.mark.parametrize(("given", "judgements", "note"), NOTES.values(), ids=NOTES)
def test_judgements_that_say_nothing_are_said_to(
    client: RerankClient,
    worker: AnsweringWorker,
    tmp_path: Path,
    given: list[Any],
    judgements: str | None,
    note: str,
) -> None:
    (tmp_path / "qrels").write_text(judgements or "")
    asked = {} if judgements is None else {"qrels": str(tmp_path / "qrels")}

    summary = run(client, write(tmp_path / "in.jsonl", given), tmp_path / "out.jsonl", **asked)

    assert [told.startswith(note) for told in summary.notes] == [True]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`rerankq evaluate …`: exit code, stdout, stderr."""

    def run_command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rerankq", "evaluate", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            main()
        code = int(end.value.code or 0)
        del end  # or its traceback and this frame hold each other, and a file
        return (code, *capsys.readouterr())

    return run_command


def test_a_run_of_another_system_is_judged_by_its_scores_as_trec_eval_does(
    command: Any, tmp_path: Path
) -> None:
    tied = {"q": {"a": 1.0, "b": 2.0, "c": 2.0}}
    (tmp_path / "bm25.run").write_text("".join(f"q Q0 {d} 0 {s} x\n" for d, s in tied["q"].items()))
    (tmp_path / "qrels").write_text("q 0 b 1\nelse 0 b 1\n")

    code, told, _ = command(tmp_path / "bm25.run", "--qrels", tmp_path / "qrels", "--json")

    measured = trec_eval.RelevanceEvaluator({"q": {"b": 1}}, {"recip_rank"}).evaluate(tied)
    verdict = json.loads(told)
    assert (code, verdict["quality"]["mrr_after"]) == (0, measured["q"]["recip_rank"])
    assert (verdict["missing_queries"], verdict["quality_with_missing"]["mrr_after"]) == (1, 0.25)


WRONG: dict[str, tuple[str, bytes, list[str], str]] = {
    "no judgements": ("o.jsonl", lines([{"id": 1, "results": []}]), [], "carries judgements; name them"),
    "an input": ("o.jsonl", lines(ROWS), [], "line 1 of"),
    "a table of something else": (
        "o.csv",
        b"a,b\n1,2\n",
        [],
        "expected a column query_id, got 2 of other names",
    ),
    "a table out of order": (
        "o.csv",
        b"query_id,doc_id,rank\nq,d,2\n",
        [],
        "by rank, from 1 on; sort them so",
    ),
    "an unknown extension": ("o.bin", b"", [], "--format"),
    "not there": ("no/o.jsonl", b"", [], "there is no file"),
    "a score that is none": ("o.trec", b"q Q0 d 1 high x\n", [], "cannot be read"),
    "qrels with a word": ("o.jsonl", b"", ["q 0 d 1\nq 0 e high\n"], "line 2 of"),
    "qrels with a fraction": ("o.jsonl", b"", ["q 0 d 0.1\n"], "line 1 of"),
    "a fraction": (
        "o.jsonl",
        lines([{"id": 1, "results": [], "relevant": {"a": 0.1}}]),
        [],
        "a whole number",
    ),
    "qrels with no finite grade": ("o.jsonl", b"", ["q 0 d 1\nq 0 e nan\n"], "line 2 of"),
}


@pytest.mark.parametrize(("name", "content", "qrels_", "reason"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_judged_is_said_in_one_line(
    command: Any, tmp_path: Path, name: str, content: bytes, qrels_: list[str], reason: str
) -> None:
    if "/" not in name:
        (tmp_path / name).write_bytes(content)
    for text in qrels_:
        (tmp_path / "qrels").write_text(text)

    code, _, complaint = command(tmp_path / name, *(["--qrels", tmp_path / "qrels"] if qrels_ else []))

    assert (code, complaint.count("\n")) == (2, 1)
    assert reason in complaint


def test_the_directory_that_one_stands_in_may_be_named(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "o.jsonl").write_bytes(
        lines([{"id": 1, "results": [{"index": 0, "id": "a"}], "relevant": ["a"]}])
    )
    monkeypatch.chdir(tmp_path)

    code, told, _ = command(".", "--json")

    assert (code, json.loads(told)["judged_queries"]) == (0, 1)


def test_mrr_counts_from_the_grade_that_is_named() -> None:
    row = Ranked("q", by_place(["d2", "d1", "d0"]), relevant={"d0": 2, "d2": 1})

    from_one, from_two = (Evaluator(relevant_from=grade).quality([row]) for grade in (1, 2))

    assert (from_one.mrr_after, from_two.mrr_after) == pytest.approx((1, 1 / 3))
    assert from_two.ndcg_after == pytest.approx(from_one.ndcg_after)


def test_a_flag_that_is_no_number_judges_nothing() -> None:
    row = Ranked("q", by_place(["a", "b"]), relevant={"a": nan, "b": 1})

    assert Evaluator().quality([row]).mrr_after == 0.5


JUDGEMENTS: dict[str, tuple[Any, dict[str, float] | None]] = {
    "grades": ({"a": 2, "b": 0}, {"a": 2.0, "b": 0.0}),
    "a struct with nulls": ({"a": 1, "b": None}, {"a": 1.0}),
    "grades as text": ({"a": "1"}, {"a": 1.0}),
    "ids": (["a", 7], {"a": 1.0, "7": 1.0}),
    "pairs, as of a map": ([["a", 2], ["b", 0]], {"a": 2.0, "b": 0.0}),
    "JSON text": ('{"a": 1}', {"a": 1.0}),
    "no finite grade": ({"a": "1e999"}, None),
    "a number that is no grade": ({"a": 1e12}, None),
    "anything else": ("no JSON", None),
    "objects": ([{"id": "a"}], None),
}


@pytest.mark.parametrize(("given", "grades_"), JUDGEMENTS.values(), ids=JUDGEMENTS)
def test_judgements_are_read_in_each_form_that_rows_have_them_in(
    given: Any, grades_: dict[str, float] | None
) -> None:
    assert grades(given) == grades_


QREL_FILES = {
    "BEIR": "query-id\tcorpus-id\tscore\nq 1\td 1\t2\n",
    "TREC": "q_1 0 d_1 2\n",
    "TREC with tabs": "q 1\t0\td 1\t2\n",
    "without a header": "q 1\td 1\t2\n",
}


@pytest.mark.parametrize("text", QREL_FILES.values(), ids=QREL_FILES)
def test_judgements_are_read_in_each_form_that_files_have_them_in(tmp_path: Path, text: str) -> None:
    (tmp_path / "qrels").write_text(text)

    assert read_qrels(str(tmp_path / "qrels")) in ({"q 1": {"d 1": 2.0}}, {"q_1": {"d_1": 2.0}})
