"""The engine dies, hangs, runs out of memory or is slow to load: cases g, j, k and n."""

import time

import pytest

from rerankq import JobFailed, Ranking, RerankClient
from rerankq.contract.transport.dead_letters import DeadLetters
from tests.faults.conftest import HANGS_THE_ENGINE, KILLS_THE_ENGINE, documents
from tests.service import Service


def test_a_job_given_up_for_the_engine_lies_with_the_dead_letters(
    service: Service, client: RerankClient
) -> None:
    poison = client.submit(f"{KILLS_THE_ENGINE} again", documents(2), lane="bulk")
    with pytest.raises(JobFailed):
        poison.result(60)

    with service.redis.client() as redis:
        service.wait_until(lambda: DeadLetters(redis).show(poison.job_id))
        letter = DeadLetters(redis).show(poison.job_id)

    assert letter is not None
    assert "on the device 2 times" in letter.reason
    assert KILLS_THE_ENGINE not in repr(letter)


def test_in_a_pack_only_the_request_that_kills_the_engine_fails(client: RerankClient) -> None:
    queries = ["pack one", f"pack {KILLS_THE_ENGINE}", "pack three"]
    pack = client.send_pack([client.request(query, documents(3), lane="bulk") for query in queries])

    answers = pack.answers(90)

    assert [isinstance(answer, Ranking) for answer in answers] == [True, False, True]
    assert isinstance(answers[1], JobFailed)


def test_a_pass_that_hangs_is_ended_and_its_innocent_neighbours_are_answered(
    service: Service, client: RerankClient
) -> None:
    hanging = client.submit(HANGS_THE_ENGINE, documents(1), lane="bulk")
    innocent = client.submit("beside the hang", documents(20), deadline=time.time() + 60)

    with pytest.raises(JobFailed):
        hanging.result(60)
    assert innocent.result(60).complete
    assert hanging.status().state == "dead"


def test_no_job_is_taken_while_the_engine_loads(service: Service, client: RerankClient) -> None:
    service.kill(service.engine())
    service.wait_until(lambda: service.engine_state() == "loading")
    service.engine().suspend()  # it loads until we say so
    job = client.submit("waits for the engine", documents(1), lane="bulk")
    time.sleep(0.5)

    assert (service.engine_state(), job.status().state) == ("loading", "queued")
    service.engine().resume()
    assert job.result(30).complete
    assert job.status().attempts == 1
