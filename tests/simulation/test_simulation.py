"""What the simulation of fleets keeps, whatever is asked of it, and where it meets what is known of queues."""

import json
import statistics
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulation import load
from benchmarks.simulation.__main__ import main
from benchmarks.simulation.autoscaling import Autoscaler
from benchmarks.simulation.beside_service import CASES, differences
from benchmarks.simulation.figures import Figures, from_bench
from benchmarks.simulation.run import Scenario, simulate
from benchmarks.simulation.world import LEASE_SECONDS, Device, Job, World
from rerankq.cli.sizing import fleet_of

PASS_SECONDS = 0.1
ONE_JOB_A_PASS = Figures(pair_seconds=PASS_SECONDS / 32, interactive_workers=0, bulk_workers=1)
CARD = Figures(pair_seconds=1 / 3000, job_seconds=0.005)
TROUBLED = Scenario(
    figures=CARD,
    devices=4,
    rate=100,
    bulk_rate=20,
    bulk_jobs=200,
    seconds=60,
    engine_every_seconds=20,
    host_every_seconds=40,
    back_after_seconds=10,
)


def took(job: Job) -> float:
    assert job.ended_at is not None
    return job.ended_at - job.arrived_at


def world_of(figures: Figures, *jobs: Job, devices: int = 1) -> tuple[World, list[Device]]:
    world = World(figures)
    world.arrive(jobs)
    return world, [world.add_device() for _ in range(devices)]


def test_the_same_seed_gives_the_same_run_and_another_another() -> None:
    assert simulate(TROUBLED)[1] == simulate(TROUBLED)[1] != simulate(replace(TROUBLED, seed=2))[1]


@pytest.mark.parametrize("seed", range(3))
def test_every_job_is_answered_once_dead_or_somewhere_whatever_dies(seed: int) -> None:
    world, told = simulate(replace(TROUBLED, seed=seed))

    assert sum(told[lane]["delivered_again"] for lane in ("interactive", "bulk")) > 0
    for lane in ("interactive", "bulk"):
        row = told[lane]
        assert row["came"] == row["answered"] + row["dead"] + row["inside"]
    world.run_until(5_000)
    assert [job for job in world.jobs if job.ended_at is None] == []
    assert all(job.unscored == 0 for job in world.jobs if not job.is_dead)


def test_jobs_inside_are_as_many_as_come_in_the_time_that_each_stays() -> None:
    world, told = simulate(Scenario(figures=CARD, devices=2, rate=80, seconds=400))

    stay = statistics.fmean(took(job) for job in world.jobs if job.ended_at is not None)
    assert told["jobs_inside"] == pytest.approx(len(world.jobs) / 400 * stay, rel=0.02)


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_one_worker_whose_jobs_all_take_a_pass_is_the_queue_of_pollaczek_and_khinchine(busy: float) -> None:
    asked = Scenario(figures=ONE_JOB_A_PASS, rate=busy / PASS_SECONDS, documents=32, seconds=2_000)

    world, told = simulate(asked)

    wait = statistics.fmean(took(job) for job in world.jobs if job.ended_at is not None) - PASS_SECONDS
    assert wait == pytest.approx(busy * PASS_SECONDS / (2 * (1 - busy)), rel=0.15)
    assert told["devices_busy"] == pytest.approx(busy, rel=0.05)


def test_a_fleet_does_as_rerankq_bench_reckons() -> None:
    service, rate = 64 / CARD.pairs_per_second, 120
    asked = Scenario(figures=CARD, devices=4, rate=rate, documents=64, seconds=150)

    _, told = simulate(asked)

    reckoned = fleet_of(4, rate, service, CARD.job_seconds, workers=3)
    assert told["devices_busy"] == pytest.approx(reckoned.busy, rel=0.05)
    assert told["interactive"]["p50_seconds"] == pytest.approx(reckoned.p50_seconds, rel=0.3)
    assert told["interactive"]["p99_seconds"] == pytest.approx(reckoned.p99_seconds, rel=0.3)


def test_an_interactive_job_waits_for_one_batch_of_bulk_work() -> None:
    _, told = simulate(Scenario(figures=CARD, rate=1, documents=10, bulk_jobs=2_000, seconds=30))

    own = CARD.job_seconds + CARD.pass_seconds(20)  # bulk rows that ride along at most double its pass
    assert told["interactive"]["p99_seconds"] <= CARD.pass_seconds(32) + own + 0.001
    assert told["bulk"]["pairs_per_second"] == pytest.approx(CARD.pairs_per_second, rel=0.05)


def test_a_job_of_a_host_that_died_is_done_elsewhere_when_its_lease_is_over() -> None:
    job = Job("interactive", 3_000, 0.0)
    world, (first, second) = world_of(CARD, job, devices=2)
    world.at(0.5, lambda: world.lose_host(first if any(w.job for w in first.workers) else second, 1e9))

    world.run_until(100)

    assert job.deliveries == 2
    assert took(job) == pytest.approx(0.5 + LEASE_SECONDS + 0.005 + 1.0, abs=0.05)


def test_a_job_that_loses_every_worker_is_set_aside_after_three() -> None:
    job = Job("bulk", 30_000, 0.0)
    world, (device,) = world_of(CARD, job)
    for second in range(1, 200):
        world.at(second, lambda: world.lose_host(device, 0.1) if world.held() else None)

    world.run_until(200)

    assert (job.is_dead, job.deliveries) == (True, 3)


def test_an_engine_that_dies_costs_the_batch_that_it_was_at() -> None:
    job = Job("interactive", 3_000, 0.0)
    world, (device,) = world_of(CARD, job)
    world.at(0.5, lambda: world.lose_engine(device, 10))

    world.run_until(100)

    assert job.deliveries == 1
    assert took(job) == pytest.approx(0.005 + 1.0 + 10, abs=0.02)


@pytest.mark.parametrize("by_age", [False, True], ids=["by length", "by age, too"])
def test_an_autoscaler_follows_the_load_within_its_bounds_and_loses_nothing(by_age: bool) -> None:
    world = World(CARD)
    world.arrive(load.poisson(1, "interactive", 150, 50, 200))
    scaler = Autoscaler(world, 1, 6, start_seconds=60, by_age=by_age)
    scaler.begin()

    world.run_until(3_000)

    sizes = [size for _, size in scaler.sizes]
    assert (min(sizes), sizes[-1]) == (1, 1)
    assert 3 <= max(sizes) <= 6
    assert all(job.ended_at is not None and job.deliveries == 1 for job in world.jobs)


@pytest.mark.parametrize(
    "option",
    [
        pytest.param(("--rate", "inf"), id="jobs at once without end"),
        pytest.param(("--seconds", "inf"), id="for ever"),
        pytest.param(("--job-ms", "nan"), id="no number"),
        pytest.param(("--bulk-jobs", "-4"), id="fewer than none"),
    ],
)
def test_what_would_never_end_or_means_nothing_is_refused(
    option: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["simulation", "--pairs-per-second", "100", *option])

    with pytest.raises(SystemExit, match="2"):
        main()

    assert f"argument {option[0]}: expected" in capsys.readouterr().err


def told_by_bench(**latency: Any) -> dict[str, Any]:
    rows = [
        {"documents": 10, "score_seconds": 0.030, "queue_seconds": 0.004, "tokenize_seconds": 0.001},
        {"documents": 100, "score_seconds": 0.3, "queue_seconds": 0.005, "tokenize_seconds": 0.009},
    ]
    return {
        "engine": {"device": "NVIDIA H100", "max_batch_pairs": 32},
        "lengths": [
            {"length": 64, "pairs_per_second": 900},
            {"length": 256, "pairs_per_second": 32 / 0.074},
        ],
        "latency": [{"length": 256, "asked": 3, **row, **latency} for row in rows],
    }


def test_figures_are_read_from_what_was_measured(tmp_path: Path) -> None:
    file = tmp_path / "device.json"
    file.write_text(json.dumps(told_by_bench()))

    figures = from_bench(file)

    assert asdict(figures) == pytest.approx(asdict(Figures(0.002, 0.010, 0.004, 0.0001)))


@pytest.mark.parametrize(
    "told", [told_by_bench(asked=0), {}, []], ids=["stopped", "something else", "a list"]
)
def test_what_a_bench_did_not_finish_is_refused(tmp_path: Path, told: object) -> None:
    file = tmp_path / "device.json"
    file.write_text(json.dumps(told))

    with pytest.raises(ValueError, match="no whole answer of `rerankq bench --json`"):
        from_bench(file)


def row_of(**more: float) -> dict[str, Any]:
    side = {
        "answered": 9,
        "busy": 0.5,
        "pairs_per_second": 80.0,
        "mean_ms": 900,
        "p50_ms": 800,
        "p95_ms": 2000,
    }
    return {"jobs": 9, "service": side, "simulation": side | more}


@pytest.mark.parametrize(
    ("simulated", "said"),
    [
        pytest.param({}, [], id="the same"),
        pytest.param({"mean_ms": 1100, "busy": 0.48}, [], id="within what is allowed"),
        pytest.param({"p95_ms": 2600}, ["p95_ms: 2000, simulated 2600, 25% is allowed"], id="a time"),
        pytest.param({"busy": 0.4}, ["busy: 0.5, simulated 0.4, 5% is allowed"], id="work"),
        pytest.param({"answered": 8}, ["8 of 9 answered"], id="an answer is missing"),
    ],
)
def test_the_benchmark_beside_a_service_says_what_is_too_far_from_it(
    simulated: dict[str, float], said: list[str]
) -> None:
    assert differences(CASES[0], row_of(**simulated)) == said
