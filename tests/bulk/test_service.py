"""Bulk through the whole service: its pace is measured, and interactive callers keep their place."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rerankq.bulk import Task, rerank_many
from rerankq.bulk.dry_run import dry_run
from rerankq.packing import PackSize
from tests.bulk.test_run import rows, write
from tests.service import Service

ROWS = 400


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    engine = "rerankq_worker.doubles:slow?batch_ms=5&pair_ms=2"
    with Service(engine=engine) as running:
        yield running


def test_a_dry_run_reckons_with_the_pace_that_the_workers_have_measured(
    service: Service, tmp_path: Path
) -> None:
    task = Task(write(tmp_path / "in.jsonl", rows(ROWS)), str(tmp_path / "out.jsonl"))
    for _ in rerank_many(rows(ROWS // 8), service.client):
        pass

    measured, given = dry_run(task, service.client), dry_run(task, service.client, 1.0)

    assert measured.pace_from == "of late by 1 of 1 workers together"
    assert 1 < measured.pairs_per_second < 1000 / 2  # the engine takes 2 ms a pair
    assert (given.pace_from, given.estimated_seconds) == ("as given", 3 * ROWS)


def test_an_interactive_caller_is_answered_while_bulk_work_waits(service: Service) -> None:
    bulk = rerank_many(rows(10 * ROWS), service.client, top_n=1, pack_size=PackSize(max_pairs=512))
    next(bulk)

    for number in range(3):
        assert service.client.rerank(f"now {number}", ["a", "b"], timeout=30).complete

    assert service.client.lanes()["bulk"] > 0
    bulk.close()
