"""A bulk run answers every row exactly once, in order, whatever single rows do."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rerankq import InvalidRequest, NoWorkers, RerankClient
from rerankq.bulk import BulkRun, Task, rerank_many
from rerankq.bulk.run import Summary
from rerankq.contract import wire
from rerankq.contract.errors import InvalidSettings
from rerankq.contract.messages import Ranking
from rerankq.packing import PackSize
from rerankq.settings import ClientSettings
from tests.bulk.answering import AnsweringWorker
from tests.redis_server import RedisServer


def rows(count: int, **special: str) -> list[dict[str, Any]]:
    """Requests by number; `row7="poison"` puts that word into the query of row 7."""
    words = {int(name.removeprefix("row")): word for name, word in special.items()}
    return [
        {
            "id": f"r{number}",
            "query": f"query {number} {words.get(number, '')}".strip(),
            "documents": ["a" * (1 + (number + place) % 7) for place in range(3)],
            "tag": number,
        }
        for number in range(count)
    ]


def write(path: Path, lines: list[Any]) -> str:
    path.write_bytes(b"".join(wire.encode(line) + b"\n" for line in lines))
    return str(path)


def read(path: Path) -> list[Any]:
    return [wire.decode(line) for line in path.read_bytes().splitlines()]


def run(client: RerankClient, given: Path | str, out: Path | str, **options: Any) -> Summary:
    how = {name: options.pop(name) for name in ("restart", "overwrite", "retry_errors") if name in options}
    options.setdefault("pack_pairs", 12)
    return BulkRun(Task(str(given), str(out), **options), client).run(**how)


def test_every_row_is_answered_in_its_place_with_what_it_carried(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = write(tmp_path / "in.jsonl", rows(50))

    summary = run(client, given, tmp_path / "out.jsonl")

    lines = read(tmp_path / "out.jsonl")
    assert [line["id"] for line in lines] == [f"r{number}" for number in range(50)]
    assert [line["tag"] for line in lines] == list(range(50))
    assert [result["index"] for result in lines[0]["results"]] == [2, 1, 0]
    assert (summary.rows, summary.failed, summary.pairs) == (50, 0, 150)
    assert max(worker.packs) == 4
    assert not (tmp_path / "out.jsonl.errors.jsonl").exists()


def test_a_failing_row_fails_alone_and_leaves_its_line_in_the_errors_file(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = rows(20, row3="poison", row9="refused", row11="slow")
    given[5]["documents"] = []

    summary = run(client, write(tmp_path / "in.jsonl", [*given, "no object"]), tmp_path / "out.jsonl")

    assert (summary.rows, summary.failed) == (21, 4)
    assert summary.failures == {"JobFailed": 1, "InvalidRequest": 3}
    done = [line["id"] for line in read(tmp_path / "out.jsonl")]
    assert done == [f"r{number}" for number in range(20) if number not in (3, 5, 9)]
    *errors, broken = read(tmp_path / "out.jsonl.errors.jsonl")
    assert [error["rerankq_error"]["row"] for error in errors] == [3, 5, 9]
    assert {name: errors[0][name] for name in given[3]} == given[3]
    assert broken == "no object"


def test_the_errors_are_asked_again_when_told_and_only_then(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, out = write(tmp_path / "in.jsonl", rows(20, row3="poison", row9="poison")), tmp_path / "out.jsonl"
    run(client, given, out)
    assert run(client, given, out).failed == 2
    monkeypatch.setattr("tests.bulk.answering.POISON", "poison no more")

    summary = run(client, given, out, retry_errors=True)

    assert (summary.rows, summary.failed) == (20, 0)
    assert sorted(line["tag"] for line in read(out)) == list(range(20))
    assert [path.name for path in tmp_path.glob("out.jsonl*errors*")] == []
    assert set(worker.scored.values()) == {1}


def test_rows_that_fail_again_stay_in_the_errors_file(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given, out = write(tmp_path / "in.jsonl", rows(20, row3="poison")), tmp_path / "out.jsonl"
    run(client, given, out)

    summary = run(client, given, out, retry_errors=True)

    assert (summary.rows, summary.failed) == (20, 1)
    assert len(read(out)) == 19
    assert [error["rerankq_error"]["row"] for error in read(tmp_path / "out.jsonl.errors.jsonl")] == [3]


def test_answers_that_are_written_out_do_not_fill_redis(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, redis_server: RedisServer
) -> None:
    run(client, write(tmp_path / "in.jsonl", rows(40, row3="poison")), tmp_path / "out.jsonl")

    assert redis_server.client().keys("celery-task-meta-*") == []


def test_unordered_answers_every_row_once_too(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = write(tmp_path / "in.jsonl", rows(50, row17="slow"))

    run(client, given, tmp_path / "out.jsonl", is_ordered=False)

    assert sorted(line["tag"] for line in read(tmp_path / "out.jsonl")) == list(range(50))


def test_a_pipe_carries_failures_among_the_answers(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = b"".join(wire.encode(row) + b"\n" for row in rows(9, row3="poison"))
    piped_in, piped_out = io.TextIOWrapper(io.BytesIO(lines)), io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdin", piped_in)
    monkeypatch.setattr(sys, "stdout", piped_out)

    summary = run(client, "-", "-")

    got = [wire.decode(line) for line in piped_out.buffer.getvalue().splitlines()]
    assert [line["id"] for line in got] == [f"r{number}" for number in range(9)]
    assert got[3]["error"]["type"] == "JobFailed"
    assert (summary.failed, summary.errors) == (1, None)


def test_without_a_worker_the_run_says_so_and_leaves_no_output(client: RerankClient, tmp_path: Path) -> None:
    given = write(tmp_path / "in.jsonl", rows(3))

    with pytest.raises(NoWorkers, match="no worker takes bulk work"):
        run(client, given, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_program_gets_each_request_with_its_answer_in_order(
    client: RerankClient, worker: AnsweringWorker
) -> None:
    given = [("query poison", ["a"]), *[(f"query {number}", ["a", "bb"]) for number in range(30)]]

    got = list(rerank_many(given, client, top_n=1, pack_size=PackSize(max_pairs=8)))

    assert [request for request, _ in got] == given
    assert type(got[0][1]).__name__ == "JobFailed"
    assert [answer.results[0].index for _, answer in got[1:]] == [1] * 30  # type: ignore[union-attr]


@pytest.mark.usefixtures("worker")
def test_a_program_may_give_arrays_and_gets_an_error_for_what_is_no_request(client: RerankClient) -> None:
    requests = [("q", np.array(["a", "b"])), ("q", {"a": "b"}), "q and a", None, ("q", iter(["a", "b"]))]

    answers = [answer for _, answer in rerank_many(requests, client, top_n=np.int64(1))]

    assert [type(answer).__name__ for answer in answers] == [
        "Ranking",
        "InvalidRequest",
        "InvalidRequest",
        "InvalidRequest",
        "Ranking",
    ]
    assert "got dict" in str(answers[1])
    assert "expected a RerankRequest, a mapping or (query, documents)" in str(answers[2])


def test_a_program_reads_no_more_requests_than_are_under_way(
    client: RerankClient, worker: AnsweringWorker
) -> None:
    drawn: list[int] = []

    def endless() -> Any:
        number = 0
        while True:
            drawn.append(number)
            yield {"query": f"query {number}", "documents": ["a"]}
            number += 1

    answers = rerank_many(endless(), client, pack_size=PackSize(max_pairs=4))
    for _ in range(100):
        next(answers)
    answers.close()

    assert len(drawn) < 400


def test_an_output_of_somebody_else_is_not_overwritten(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given, out = write(tmp_path / "in.jsonl", rows(3)), tmp_path / "out.jsonl"
    out.write_text("precious\n")

    for how in ({}, {"restart": True}):
        with pytest.raises(InvalidRequest, match=r"not begun by `rerankq bulk`; .* --restart --overwrite"):
            run(client, given, out, **how)
        assert out.read_text() == "precious\n"
    run(client, given, out, restart=True, overwrite=True)
    assert len(read(out)) == 3


def test_a_full_lane_is_waited_for(
    redis_server: RedisServer, worker: AnsweringWorker, tmp_path: Path
) -> None:
    settings = ClientSettings(broker_url=redis_server.url, max_bulk_jobs=2)
    given = write(tmp_path / "in.jsonl", rows(60))

    with RerankClient(settings=settings) as narrow:
        summary = run(narrow, given, tmp_path / "out.jsonl")

    assert (summary.rows, summary.failed) == (60, 0)


def test_a_row_larger_than_the_window_still_goes_through(
    client: RerankClient, worker: AnsweringWorker, tmp_path: Path
) -> None:
    given = [{"query": f"query {number}", "documents": ["a" * 100_000]} for number in range(5)]
    task = Task(write(tmp_path / "in.jsonl", given), str(tmp_path / "out.jsonl"))

    summary = BulkRun(task, client, window_bytes=1000).run()

    assert (summary.rows, summary.failed) == (5, 0)


def test_a_programs_own_keys_are_no_part_of_the_request(
    client: RerankClient, worker: AnsweringWorker
) -> None:
    given = {"query": "q", "documents": ["a", "bb"], "top_n": 1, "my own": 7}

    [(request, answer)] = rerank_many([given], client)

    assert request is given
    assert [result.index for result in answer.results] == [1]  # type: ignore[union-attr]


@pytest.fixture
def other(client: RerankClient, redis_server: RedisServer) -> Iterator[AnsweringWorker]:
    """A worker of another model, which takes no job that does not name it."""
    with AnsweringWorker(redis_server, model="other", serves_unnamed=False) as serving:
        yield serving


def test_each_request_of_a_program_is_answered_by_the_model_that_it_names(
    client: RerankClient, worker: AnsweringWorker, other: AnsweringWorker
) -> None:
    names = [None, "other", "by-length"] * 20
    given = [{"query": f"{n}", "documents": ["a", "bb"], "model": name} for n, name in enumerate(names)]

    answers = [answer for _, answer in rerank_many(given, client)]

    assert all(isinstance(answer, Ranking) for answer in answers)
    assert [answer.model.name for answer in answers if isinstance(answer, Ranking)] == [
        "by-length",
        "other",
        "by-length",
    ] * 20


def test_a_run_is_scored_by_the_model_that_it_names_whoever_else_is_there(
    client: RerankClient, worker: AnsweringWorker, other: AnsweringWorker, tmp_path: Path
) -> None:
    given = [*rows(4), {"query": "q", "documents": ["a"], "model": "by-length"}]
    lines = [{"custom_id": f"{n}", "url": "/v1/rerank", "body": row} for n, row in enumerate(given)]
    options = {"options": {"model": "other@1"}}

    summary = run(client, write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl", **options)

    assert (summary.model, summary.rows, summary.failed) == ("other@1", 5, 1)
    assert not worker.scored
    errors = (tmp_path / "out.jsonl.errors.jsonl").read_text()
    assert "model: the run is scored by other@1, got another; run such rows by themselves" in errors


def test_a_run_that_names_none_of_several_models_is_told_which_there_are(
    client: RerankClient, worker: AnsweringWorker, redis_server: RedisServer, tmp_path: Path
) -> None:
    given = write(tmp_path / "in.jsonl", rows(1))

    with AnsweringWorker(redis_server, model="other"), pytest.raises(InvalidSettings) as told:
        run(client, given, tmp_path / "out.jsonl")

    assert str(told.value).endswith("name one of them as the model: by-length@1, other@1")


def test_a_run_waits_for_workers_of_the_model_that_it_names(
    redis_server: RedisServer, worker: AnsweringWorker, tmp_path: Path
) -> None:
    settings = ClientSettings(broker_url=redis_server.url, bulk_patience_seconds=0.1)
    given = write(tmp_path / "in.jsonl", rows(1))

    with RerankClient(settings=settings) as hasty, pytest.raises(NoWorkers, match="for the model other "):
        run(hasty, given, tmp_path / "out.jsonl", options={"model": "other"})
