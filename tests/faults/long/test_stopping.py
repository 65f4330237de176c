"""SIGTERM, once and twice: cases o and p. Nothing is lost, nothing is counted as an attempt."""

import signal
import time

from rerankq.client import Job
from rerankq.contract.messages import Lane
from tests.faults.conftest import documents
from tests.service import Service


def submit_and_wait_for_scores(service: Service, query: str, count: int, lane: Lane) -> Job:
    job = service.client.submit(query, documents(count), lane=lane, deadline=time.time() + 90)
    service.wait_until(lambda: service.testimony().rows_scored(query))
    return job


def test_a_stop_finishes_what_is_short_hands_back_what_is_long_and_starts_nothing(service: Service) -> None:
    long = submit_and_wait_for_scores(service, "long job", 1200, "bulk")
    waiting = service.client.submit("waiting", documents(3), lane="bulk")
    short = submit_and_wait_for_scores(service, "short job", 80, "interactive")

    service.stop_launcher()

    assert short.result(1).complete
    assert waiting.status().state == "queued"
    assert service.testimony().rows_scored("long job") < 1200
    service.start_launcher()
    assert long.result(60).complete
    assert waiting.result(60).complete
    assert long.status().attempts == 1
    assert service.testimony().most_often_scored("long job") <= 2


def test_a_second_signal_hands_back_at_once(service: Service) -> None:
    long = submit_and_wait_for_scores(service, "another long job", 1200, "bulk")

    launcher = service.launcher()
    launcher.send_signal(signal.SIGTERM)
    time.sleep(0.5)  # two signals at the same moment are one
    launcher.send_signal(signal.SIGTERM)
    launcher.wait(30)  # a third would not wait for the hand-over
    service.stop_launcher()

    service.start_launcher()
    assert long.result(60).complete
    assert long.status().attempts == 1
