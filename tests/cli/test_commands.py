"""The commands as their user types them, against a real Redis, a real worker and a real model."""

import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest
from redis import Redis

from rerankq import JobFailed, RerankClient
from rerankq.contract import keys, wire
from rerankq.contract.keys import queue_of
from rerankq.contract.redis_clients import redis_client
from rerankq.contract.transport.dead_letters import DeadLetters
from rerankq.contract.transport.envelope import DELIVERIES_HEADER
from rerankq.local.stack import LocalStack
from rerankq.submission import job_submission
from tests.cli.conftest import Command, CommandInHere
from tests.cli.test_local_parts import is_gone, wait_until
from tests.redis_server import RedisServer

QUERY, WRONG, RIGHT = "中国的首都是哪里？", "西红柿炒蛋是一道家常菜。", "北京是中国的政治中心和首都。"


def test_the_better_document_comes_first_with_what_a_reader_wants_to_know(rerankq: Command) -> None:
    lines = rerankq.run("rerank", QUERY, WRONG, RIGHT).out.splitlines()

    first, second, timings = lines[2].split(), lines[3].split(), lines[-1]
    assert (first[0], first[2:]) == ("1", [RIGHT, "2", "↑1"])
    assert (second[0], second[2:]) == ("2", [WRONG, "1", "↓1"])
    assert all(
        word in timings for word in ("queue", "tokenize", "score", "2 pairs", "cpu fp32", "model small")
    )


def test_documents_come_from_standard_input_and_the_answer_goes_out_as_json(rerankq: Command) -> None:
    done = rerankq.run("rerank", QUERY, "--top-n", "1", "--json", stdin=f"{WRONG}\n{RIGHT}\n")

    ranking = json.loads(done.out)
    assert [(r["index"], r["document"]) for r in ranking["results"]] == [(1, RIGHT)]
    assert ranking["complete"]
    assert ranking["total"] == 2


def test_raw_scores_are_logits(rerankq_here: CommandInHere, tmp_path: Path) -> None:
    file = tmp_path / "documents.txt"
    file.write_text(WRONG, encoding="utf-8")

    done = rerankq_here.run("rerank", QUERY, "--file", str(file), "--raw-scores", "--json")

    result = json.loads(done.out)["results"][0]
    assert result["relevance_score"] == result["logit"]


def test_a_long_document_is_read_whole_and_what_is_too_low_is_left_out(
    rerankq_here: CommandInHere, tmp_path: Path
) -> None:
    file = tmp_path / "documents.txt"
    file.write_text(f"{WRONG}\n{'word ' * 1_500}{RIGHT}\n", encoding="utf-8")
    asked = ("rerank", QUERY, "--file", str(file), "--threshold", "0.3", "--json")

    whole = json.loads(rerankq_here.run(*asked, "--max-windows", "9").out)
    cut = json.loads(rerankq_here.run(*asked, "--long-documents", "truncate").out)
    told = rerankq_here.run(*asked[:-1], "--long-documents", "truncate").out

    assert [(r["index"], r["window"]["total"]) for r in whole["results"]] == [
        (1, whole["usage"]["pairs"] - 1)
    ]
    assert (cut["results"], cut["total"]) == ([], 2)
    assert told.startswith("none of 2 reaches the threshold")


def test_in_a_pipe_a_document_is_whole_however_narrow_a_terminal_would_be(rerankq: Command) -> None:
    long = " ".join(["Beijing is the capital."] * 30)

    assert long in Command({**rerankq.environment, "COLUMNS": "40"}).run("rerank", QUERY, long, WRONG).out


def test_a_job_is_picked_up_again_by_its_id(rerankq: Command) -> None:
    job_id = rerankq.run("submit", QUERY, WRONG, RIGHT).out.strip()

    result = rerankq.run("result", job_id, "--timeout", "60").out
    status = rerankq.run("status", job_id).out

    assert "#2" in result.splitlines()[2]
    assert status.startswith(f"{job_id}: done, 2/2 documents scored, interactive lane")


def test_a_job_that_is_called_off_says_so(
    rerankq: Command, rerankq_here: CommandInHere, stack: LocalStack
) -> None:
    with stack.client() as client:
        job_id = client.submit(QUERY, [f"{RIGHT} {n}" for n in range(5_000)], lane="bulk").job_id

    cancelled = json.loads(rerankq.run("cancel", job_id, "--json").out)
    failure = rerankq_here.run("result", job_id, "--timeout", "60", exit_code=1)

    assert cancelled["state"] == "cancelled"
    assert failure.err.startswith("rerankq: Cancelled: ")


def test_an_unknown_job_is_an_error_of_one_line_and_never_waited_for(rerankq_here: CommandInHere) -> None:
    done = rerankq_here.run("result", "no-such-job", exit_code=1)

    assert done.out == ""
    assert (
        done.err
        == "rerankq: JobUnknown: job no-such-job is not known; it never was, or its answer has expired\n"
    )


def test_bad_input_is_refused_before_anything_is_asked(rerankq_alone: Command) -> None:
    done = CommandInHere(rerankq_alone.environment).run("rerank", "  ", "a document", "--json", exit_code=2)

    assert json.loads(done.err)["error"] == {
        "type": "InvalidRequest",
        "message": "query: expected a query, got an empty string",
        "details": {"field": "query"},
    }


@pytest.mark.parametrize(
    ("started", "command"),
    [
        (Command, ["rerank", "q", "d"]),
        (CommandInHere, ["result", "some-job"]),
        (CommandInHere, ["lanes"]),
        (CommandInHere, ["dead", "list"]),
    ],
)
def test_a_redis_that_is_away_is_said_at_once(
    rerankq_alone: Command, started: type[Command], command: list[str]
) -> None:
    done = started(rerankq_alone.environment).run(*command, exit_code=3)

    assert done.err.startswith("rerankq: BrokerUnavailable: ")
    assert len(done.err.splitlines()) == 1


def test_workers_and_lanes_are_listed(rerankq: Command, rerankq_here: CommandInHere) -> None:
    workers = json.loads(rerankq_here.run("workers", "--json").out)["workers"]
    table = rerankq.run("workers").out
    lanes = json.loads(rerankq.run("lanes", "--json").out)

    assert {worker["device"] for worker in workers} == {"cpu0"}
    assert all(worker["name"].split("@")[0] in table for worker in workers)
    assert "600 s, 60 s" in table
    assert lanes == {"interactive": 0, "bulk": 0}


def test_what_waits_for_a_model_is_listed_under_its_name(
    rerankq_here: CommandInHere, stack: LocalStack
) -> None:
    rerankq_here.run("submit", "q", "d", "--model", "org/other")

    lanes = json.loads(rerankq_here.run("lanes", "--json").out)

    assert lanes == {"interactive": 1, "bulk": 0, "models": {"org/other": {"interactive": 1, "bulk": 0}}}
    assert "org/other" in rerankq_here.run("lanes").out
    with redis_client(stack.broker_url, 10) as redis:
        redis.delete(queue_of("interactive", "org/other"))


def test_models_are_listed_whole_where_no_terminal_is(
    rerankq: Command, rerankq_here: CommandInHere, stack: LocalStack
) -> None:
    rerankq_here.run("rerank", "q", "a", "b")
    lost = rerankq_here.run("submit", "q", "a", "--model", f"org/{'long' * 20}").out.strip()

    table = rerankq.run("models").out.splitlines()
    served, waited_for = json.loads(rerankq_here.run("models", "--json").out)["models"]

    assert table[-2].split()[0] == served["model"]
    assert table[-2].split()[-3:] == ["100", "%", served["revision"]]
    assert table[-1].split() == [f"org/{'long' * 20}", "nobody", "1"]
    assert (served["workers"], served["devices"], served["engines"]) == (2, ["cpu0"], ["packed"])
    assert (served["share"], served["serves_unnamed"], waited_for["workers"]) == (1.0, True, 0)
    assert waited_for["queues"][0] == keys.queue_of("interactive", waited_for["model"])
    with redis_client(stack.broker_url, 10) as redis:
        rerankq_here.run("cancel", lost)
        redis.delete(*waited_for["queues"])


def test_models_tells_of_jobs_without_a_name_that_nobody_takes(
    rerankq_here: CommandInHere, redis_server: RedisServer
) -> None:
    with redis_server.client() as redis:
        redis.flushall()
    rerankq_here.environment["RERANKQ_BROKER_URL"] = redis_server.url
    rerankq_here.run("submit", "q", "a")

    assert "jobs that name no model: 1 wait, for no worker takes any" in rerankq_here.run("models").out


def test_settings_tell_both_sides_and_where_each_value_came_from(rerankq: Command, stack: LocalStack) -> None:
    rerankq.environment["RERANKQ_HTTP_KEYS"] = "a-key"
    settings = json.loads(rerankq.run("settings", "--json").out)

    broker = settings["client"]["RERANKQ_BROKER_URL"]
    assert broker["source"] == "environment"
    assert settings["worker"]["RERANKQ_BROKER_URL"] == broker
    assert settings["worker"]["RERANKQ_RESULT_TTL_SECONDS"] == {"value": 3600, "source": "default"}
    assert settings["http"]["RERANKQ_HTTP_KEYS"] == {"value": "***", "source": "environment"}
    assert settings["client"].keys().isdisjoint(settings["http"])
    password = stack.broker_url.split("@")[0].removeprefix("redis://default:")
    assert password not in json.dumps(settings)


SERVING_NOT = {
    "a taken port": (["--host", "127.0.0.1"], 3, "is taken; choose another with --port"),
    "everywhere without a key": (["--host", "0.0.0.0"], 2, "expected loopback as host where no key is set"),
    "an address of nobody": (["--host", "no.such.host.invalid"], 3, "cannot listen at no.such.host.invalid"),
}


@pytest.mark.parametrize(("options", "exit_code", "why"), SERVING_NOT.values(), ids=SERVING_NOT)
def test_serving_that_cannot_be_is_refused_in_one_line(
    rerankq_alone: Command, options: list[str], exit_code: int, why: str
) -> None:
    if "invalid" in options[1]:
        rerankq_alone.environment["RERANKQ_HTTP_KEYS"] = "a-key"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = rerankq_alone.run("serve", "--port", port, *options, exit_code=exit_code)

    assert why in done.err
    assert done.err.count("\n") == 1


def test_a_misspelt_setting_is_named_with_the_right_one(rerankq_alone: Command) -> None:
    rerankq_alone.environment["RERANKQ_BROKER_ULR"] = "redis://elsewhere/0"

    done = CommandInHere(rerankq_alone.environment).run("lanes", exit_code=2)

    assert "RERANKQ_BROKER_ULR; did you mean RERANKQ_BROKER_URL?" in done.err


def test_a_dead_letter_is_listed_shown_and_dropped_without_a_word_of_its_text(
    rerankq: Command, rerankq_here: CommandInHere, stack: LocalStack
) -> None:
    with redis_client(stack.broker_url, 10) as redis:
        redis.lpush("rerankq.bulk", b"no message at all: secret-word")
        wait_until(lambda: DeadLetters(redis).count() == 1)

    letter = json.loads(rerankq.run("dead", "list", "--json").out)[0]
    shown = rerankq.run("dead", "show", letter["id"]).out
    body = rerankq_here.run("dead", "show", letter["id"], "--message").out
    refused = rerankq_here.run("dead", "retry", letter["id"], exit_code=2)
    rerankq.run("dead", "drop", letter["id"])

    assert letter["reason"] in " ".join(shown.split())
    assert "secret-word" in body
    assert "secret-word" not in shown + refused.err + json.dumps(letter)
    assert rerankq_here.run("dead", "list").out == "no job was given up\n"


def test_a_job_that_was_given_up_can_be_tried_again(
    rerankq: Command, rerankq_here: CommandInHere, stack: LocalStack
) -> None:
    with stack.client() as client, redis_client(stack.broker_url, 10) as redis:
        job_id = _submit_worn_out(client, redis)
        wait_until(lambda: DeadLetters(redis).show(job_id) is not None)
        with pytest.raises(JobFailed):
            client.job(job_id).result(60)

    rerankq.run("dead", "retry", job_id)

    assert json.loads(rerankq_here.run("result", job_id, "--timeout", "60", "--json").out)["scored"] == 1


def test_all_that_is_meant_is_tried_again_and_the_rest_stays(
    rerankq_here: CommandInHere, stack: LocalStack
) -> None:
    with stack.client() as client, redis_client(stack.broker_url, 10) as redis:
        jobs = [_submit_worn_out(client, redis) for _ in range(3)]
        redis.lpush("rerankq.bulk", b"no message at all")
        wait_until(lambda: DeadLetters(redis).count() == 4)

    counted = rerankq_here.run("dead", "retry", "--reason", "GIVEN UP", "--dry-run").out
    first = json.loads(
        rerankq_here.run("dead", "retry", "--reason", "given up", "--limit", "1", "--json").out
    )
    rest = rerankq_here.run("dead", "retry", "--all").out

    assert counted == "3 jobs would be retried\n"
    assert len(first["retried"]) == 1
    assert set(first["retried"]) < set(jobs)
    assert rest.startswith("2 jobs waiting again\n1 job left: they cannot be read")
    for job in jobs:
        assert rerankq_here.run("result", job, "--timeout", "60").out
    assert len(json.loads(rerankq_here.run("dead", "list", "--json").out)) == 1

    assert (
        rerankq_here.run("dead", "drop", "--older-than", "1h", "--yes").out
        == "none is meant of 1 job given up\n"
    )
    unasked = rerankq_here.run("dead", "drop", "--all", exit_code=2).err
    assert "1 job would be deleted for ever; --yes says that this is meant" in unasked
    assert rerankq_here.run("dead", "drop", "--older-than", "0s", "--yes").out == "1 job gone\n"


NOT_MEANT = {
    "nothing named": (["dead", "retry"], "expected the id of a dead letter, or which are meant"),
    "both": (["dead", "drop", "some-id", "--all"], "got both"),
    "no reason": (
        ["dead", "drop", "--reason", "", "--yes"],
        "--reason: expected a part of a reason, got nothing",
    ),
    "too old": (["dead", "drop", "--older-than", "9" * 5000 + "d"], "such as 90s, 30m, 12h or 7d, got '999"),
    "no age": (["dead", "drop", "--older-than", "soon"], "such as 90s, 30m, 12h or 7d, got 'soon'"),
}


@pytest.mark.parametrize(("command", "told"), NOT_MEANT.values(), ids=NOT_MEANT)
def test_what_is_meant_must_be_said(rerankq_here: CommandInHere, command: list[str], told: str) -> None:
    assert told in rerankq_here.run(*command, exit_code=2).err


def test_a_dead_letter_is_dropped_with_its_large_body(stack: LocalStack) -> None:
    payload = keys.payload("large")
    message = {
        "headers": {"id": "large", "rerankq-payload": payload},
        "properties": {"delivery_info": {}},
        "body": "",
    }
    with redis_client(stack.broker_url, 10) as redis:
        redis.set(payload, "text")
        redis.set(keys.dead_message("large"), b"rerankq.bulk\n" + wire.encode(message))

        assert DeadLetters(redis).drop("large")

        assert not redis.exists(payload, keys.dead_message("large"))


def _submit_worn_out(client: RerankClient, redis: Redis) -> str:
    """A job whose message says that it was delivered too often already."""
    message = job_submission(client.request(QUERY, [RIGHT]), None, client.clock)
    redis.hset(keys.job(message.job_id), mapping=message.record())
    worn_out = message.message()
    worn_out["headers"][DELIVERIES_HEADER] = 4
    redis.lpush(message.queue, wire.encode(worn_out))
    return message.job_id


def test_a_command_with_its_own_service_starts_one_redis_and_one_worker_and_leaves_nothing(
    rerankq_alone: Command,
) -> None:
    rerankq_alone.environment["RERANKQ_ENGINE_FACTORY"] = "rerankq_worker.doubles:noop"
    started: set[psutil.Process] = set()

    with rerankq_alone.start("rerank", QUERY, WRONG, RIGHT, "--local", "--json") as process:
        while process.poll() is None:
            started |= _children(process.pid)
            time.sleep(0.05)
        out, err = process.communicate()

    assert json.loads(out)["scored"] == 2, err
    assert len(started) == 2
    assert [child for child in started if not is_gone(child.pid)] == []


def test_a_whole_file_is_reranked_with_nothing_else_running(rerankq_alone: Command, tmp_path: Path) -> None:
    rerankq_alone.environment["RERANKQ_ENGINE_FACTORY"] = "rerankq_worker.doubles:noop"
    given, ranked, summary = (tmp_path / name for name in ("jobs.jsonl", "ranked.jsonl", "summary.json"))
    documents = [WRONG + RIGHT, RIGHT]  # the double prefers the shorter
    rows = [{"id": str(n), "query": QUERY, "documents": documents, "relevant": [1]} for n in range(20)]
    given.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    words = ("bulk", str(given), str(ranked), "--local", "--model", "small", "--summary-json", str(summary))
    rerankq_alone.run(*words)

    lines = [json.loads(line) for line in ranked.read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    assert {line["results"][0]["index"] for line in lines} == {1}
    quality = json.loads(summary.read_text(encoding="utf-8"))["quality"]
    assert (quality["mrr_before"], quality["mrr_after"]) == (0.5, 1.0)


def _children(pid: int) -> set[psutil.Process]:
    try:
        return set(psutil.Process(pid).children())
    except psutil.NoSuchProcess:
        return set()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_however_a_service_is_ended_nothing_is_left_running(
    rerankq_alone: Command, how: signal.Signals
) -> None:
    with rerankq_alone.start("up", "--no-flower") as process:
        wait_until(lambda: len(psutil.Process(process.pid).children()) == 2)
        time.sleep(0.5)  # let the worker start something of its own
        family = psutil.Process(process.pid).children(recursive=True)

        os.kill(process.pid, how)
        process.communicate(timeout=60)

    expected = {signal.SIGINT: 130, signal.SIGTERM: 128 + signal.SIGTERM, signal.SIGKILL: -signal.SIGKILL}
    assert process.returncode == expected[how]
    wait_until(lambda: all(is_gone(child.pid) for child in family))


def test_a_worker_that_cannot_start_says_why(rerankq_alone: Command) -> None:
    done = rerankq_alone.run("rerank", "q", "d", "--local", "--model", "/no/such/model", exit_code=3)

    assert "ended with exit code" in done.err
    assert "/no/such/model" in done.err


def test_a_model_that_does_not_load_is_said_once_by_the_engine_s_line(
    rerankq_alone: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        rerankq_alone.environment, "RERANKQ_ENGINE_FACTORY", "tests.witness:refuses_its_model"
    )

    done = rerankq_alone.run("rerank", "q", "d", "--local", exit_code=3)

    assert "ended with exit code 78" in done.err
    assert (
        len(re.findall("CRITICAL engine cpu0: .* for which the model of config.json has no place", done.err))
        == 1
    )


def test_an_engine_that_dies_while_it_loads_is_said_at_once(
    rerankq_alone: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rerankq_alone.environment, "RERANKQ_ENGINE_FACTORY", "tests.witness:dies_at_load")

    done = rerankq_alone.run("rerank", "q", "d", "--local", exit_code=3)

    assert "the engine ended while it loaded its model" in done.err
    assert "engine cpu0: ended by SIGKILL" in done.err


def test_the_demo_answers_its_three_jobs_and_says_what_comes_next(rerankq_alone: Command) -> None:
    out = rerankq_alone.run("demo").out

    assert [line[:2] for line in out.splitlines() if line[1:3] == ". "] == ["1.", "2.", "3."]
    assert "before, as they were retrieved:" in out
    assert out.count("queue ") == 3
    assert "rerankq model pull BAAI/bge-reranker-v2-m3" in out


def test_what_a_job_left_in_redis_will_go_by_itself(stack: LocalStack) -> None:
    with stack.client() as client, redis_client(stack.broker_url, 10) as redis:
        job_id = client.submit(QUERY, [RIGHT]).job_id
        client.job(job_id).result(60)

        assert redis.ttl(keys.job(job_id)) > 0
        assert redis.ttl(keys.result(job_id)) > 0
