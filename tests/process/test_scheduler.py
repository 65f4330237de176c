"""The laws of the scheduler, on random jobs."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankq.contract.messages import Lane
from rerankq_worker.engine_process.scheduler import Scheduler, Slice


@dataclass(frozen=True)
class JobRows:
    lengths: list[int]
    lane: Lane
    is_suspect: bool


JOBS = st.lists(
    st.builds(
        JobRows,
        lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
        lane=st.sampled_from(["interactive", "bulk"]),
        is_suspect=st.sampled_from([False, False, False, True]),
    ),
    max_size=12,
)
MAX_PAIRS = st.integers(1, 9)
MAX_TOKENS = st.integers(1, 100)


def filled(jobs: list[JobRows], max_pairs: int = 8, max_tokens: int = 100) -> Scheduler:
    scheduler = Scheduler(max_pairs, max_tokens)
    for ticket, job in enumerate(jobs):
        scheduler.add(ticket, job.lengths, job.lane, is_suspect=job.is_suspect)
    return scheduler


def drained(scheduler: Scheduler) -> list[list[Slice]]:
    batches: list[list[Slice]] = []
    while batch := scheduler.next_batch():
        batches.append(batch)
    return batches


def lengths_in(batch: list[Slice], jobs: list[JobRows]) -> list[int]:
    return [jobs[piece.ticket].lengths[position] for piece in batch for position in piece.positions]


@given(JOBS, MAX_PAIRS, MAX_TOKENS)
def test_every_row_is_cut_into_exactly_one_batch(
    jobs: list[JobRows], max_pairs: int, max_tokens: int
) -> None:
    batches = drained(filled(jobs, max_pairs, max_tokens))

    cut = [(piece.ticket, position) for batch in batches for piece in batch for position in piece.positions]
    given_rows = [
        (ticket, position) for ticket, job in enumerate(jobs) for position in range(len(job.lengths))
    ]
    assert sorted(cut) == given_rows


@given(JOBS, MAX_PAIRS, MAX_TOKENS)
def test_a_batch_keeps_both_limits_unless_one_row_alone_is_over(
    jobs: list[JobRows], max_pairs: int, max_tokens: int
) -> None:
    batches = drained(filled(jobs, max_pairs, max_tokens))

    for batch in batches:
        lengths = lengths_in(batch, jobs)
        assert len(lengths) <= max_pairs
        assert sum(lengths) <= max_tokens or len(lengths) == 1


@given(JOBS, MAX_PAIRS, MAX_TOKENS)
def test_a_suspect_never_shares_a_batch(jobs: list[JobRows], max_pairs: int, max_tokens: int) -> None:
    batches = drained(filled(jobs, max_pairs, max_tokens))

    for batch in batches:
        if any(jobs[piece.ticket].is_suspect for piece in batch):
            assert len(batch) == 1


@given(JOBS, st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(0, 5))
def test_an_interactive_job_is_in_the_very_next_batch_whatever_bulk_waits(
    jobs: list[JobRows], lengths: list[int], batches_before: int
) -> None:
    bulk = [JobRows(job.lengths, "bulk", job.is_suspect) for job in jobs]
    scheduler = filled(bulk)
    for _ in range(batches_before):
        scheduler.next_batch()

    scheduler.add(len(bulk), lengths, "interactive")

    assert scheduler.next_batch()[0].ticket == len(bulk)


@given(JOBS, MAX_PAIRS, MAX_TOKENS)
def test_bulk_leads_a_batch_only_when_no_interactive_row_waits(
    jobs: list[JobRows], max_pairs: int, max_tokens: int
) -> None:
    scheduler = filled(jobs, max_pairs, max_tokens)

    while scheduler.waiting_rows("interactive"):
        assert jobs[scheduler.next_batch()[0].ticket].lane == "interactive"


@given(JOBS, MAX_PAIRS, MAX_TOKENS)
def test_bulk_rows_at_most_double_a_pass_that_answers_an_interactive_job(
    jobs: list[JobRows], max_pairs: int, max_tokens: int
) -> None:
    for batch in drained(filled(jobs, max_pairs, max_tokens)):
        by_lane = {
            lane: sum(lengths_in([piece for piece in batch if jobs[piece.ticket].lane == lane], jobs))
            for lane in ("interactive", "bulk")
        }
        assert by_lane["bulk"] <= by_lane["interactive"] or by_lane["interactive"] == 0


@given(JOBS, MAX_PAIRS, MAX_TOKENS)
def test_jobs_of_a_lane_are_finished_in_order_unless_they_fill_a_gap(
    jobs: list[JobRows], max_pairs: int, max_tokens: int
) -> None:
    scheduler = filled([JobRows(job.lengths, "bulk", False) for job in jobs], max_pairs, max_tokens)

    leads = [batch[0].ticket for batch in drained(scheduler)]

    assert leads == sorted(leads)


@given(JOBS, st.sets(st.integers(0, 11)), st.integers(0, 5))
def test_a_cancelled_job_is_in_no_later_batch(
    jobs: list[JobRows], cancelled: set[int], batches_before: int
) -> None:
    scheduler = filled(jobs)
    for _ in range(batches_before):
        scheduler.next_batch()

    for ticket in cancelled:
        scheduler.cancel(ticket)

    assert cancelled.isdisjoint(piece.ticket for batch in drained(scheduler) for piece in batch)


@pytest.mark.parametrize(
    ("max_pairs", "expected"),
    [pytest.param(2, [[2, 0], [1]], id="longest first"), pytest.param(3, [[2, 0, 1]], id="all fit")],
)
def test_the_longest_rows_of_a_job_go_first(max_pairs: int, expected: list[list[int]]) -> None:
    scheduler = Scheduler(max_pairs, max_tokens=100)
    scheduler.add(0, [20, 10, 30], "bulk")

    assert [batch[0].positions for batch in drained(scheduler)] == expected


def test_rows_of_equal_length_keep_their_order() -> None:
    scheduler = Scheduler(max_pairs=2, max_tokens=100)
    scheduler.add(0, [7, 7, 7, 7], "bulk")

    assert [batch[0].positions for batch in drained(scheduler)] == [[0, 1], [2, 3]]
