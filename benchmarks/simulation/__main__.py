"""What a fleet would do, on one device's measured figures.

    rerankq bench --json > device.json
    python -m benchmarks.simulation --bench device.json --devices 4 --rate 60 --documents 50
    python -m benchmarks.simulation --pairs-per-second 3000 --devices 8 --rate 300 --bulk-jobs 9000 --host-dies-every 24
    python -m benchmarks.simulation --pairs-per-second 3000 --devices 1 --autoscale-to 8 --by-age --rate 200

The same seed gives the same run. The last line is JSON.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from benchmarks.simulation.figures import BATCH_PAIRS, Figures, from_bench
from benchmarks.simulation.run import Row, Scenario, simulate
from benchmarks.simulation.world import LANES
from rerankq.contract.closed_pipes import ends_quietly

HOUR_SECONDS = 3600.0
MOST = 1e9
"""Of any number: what is larger is a slip, and an infinite rate or time would never end."""


def main() -> None:
    options = _parser().parse_args()
    try:
        asked = _scenario(options)
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    _, told = simulate(asked)
    _show(asked, told)
    print(json.dumps({"benchmark": "simulation", "asked": dataclasses.asdict(asked), "found": told}))


def _scenario(options: argparse.Namespace) -> Scenario:
    if options.autoscale_to is not None and options.autoscale_to < options.devices:
        raise ValueError(
            f"expected --autoscale-to of at least --devices ({options.devices}), got {options.autoscale_to}"
        )
    return Scenario(
        figures=_figures(options),
        devices=options.devices,
        most_devices=options.autoscale_to,
        by_age=options.by_age,
        start_seconds=options.start_seconds,
        rate=options.rate,
        documents=options.documents,
        bulk_rate=options.bulk_rate,
        bulk_documents=options.bulk_documents or options.documents,
        bulk_jobs=options.bulk_jobs,
        seconds=options.seconds,
        warm_up_seconds=options.warm_up_seconds,
        engine_every_seconds=options.engine_dies_every * HOUR_SECONDS,
        host_every_seconds=options.host_dies_every * HOUR_SECONDS,
        back_after_seconds=options.back_after_seconds,
        seed=options.seed,
    )


def _figures(options: argparse.Namespace) -> Figures:
    if options.bench is not None:
        return from_bench(options.bench)
    full_seconds = BATCH_PAIRS / options.pairs_per_second
    batch_seconds = min(options.batch_ms / 1000, full_seconds)
    return Figures(
        pair_seconds=(full_seconds - batch_seconds) / BATCH_PAIRS,
        batch_seconds=batch_seconds,
        job_seconds=options.job_ms / 1000,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = parser.add_argument_group("one device")
    known = device.add_mutually_exclusive_group(required=True)
    known.add_argument("--bench", type=Path, help="what `rerankq bench --json` wrote")
    known.add_argument("--pairs-per-second", type=_positive, help="in full batches of 32")
    device.add_argument("--batch-ms", type=_not_negative, default=0.0, help="of a pass, whatever is in it")
    device.add_argument("--job-ms", type=_not_negative, default=5.0, help="of a worker, beside the engine")
    fleet = parser.add_argument_group("fleet")
    fleet.add_argument("--devices", type=_count, default=1)
    fleet.add_argument("--autoscale-to", type=_count, help="from --devices to so many, as KEDA does")
    fleet.add_argument("--by-age", action="store_true", help="with the component scaling-by-age")
    fleet.add_argument(
        "--start-seconds", type=_not_negative, default=120.0, help="from a pod's creation to its first job"
    )
    load = parser.add_argument_group("load")
    load.add_argument("--rate", type=_not_negative, default=0.0, help="interactive jobs a second")
    load.add_argument("--documents", type=_count, default=50)
    load.add_argument("--bulk-rate", type=_not_negative, default=0.0)
    load.add_argument("--bulk-jobs", type=_count_or_none, default=0, help="that wait at the beginning")
    load.add_argument("--bulk-documents", type=_count, help="as --documents when left out")
    load.add_argument("--seconds", type=_positive, default=600.0)
    load.add_argument("--warm-up-seconds", type=_not_negative, default=0.0, help="whose jobs are not counted")
    load.add_argument("--seed", type=int, default=1)
    deaths = parser.add_argument_group("deaths")
    deaths.add_argument(
        "--engine-dies-every", type=_not_negative, default=0.0, help="hours of one device, in the mean"
    )
    deaths.add_argument(
        "--host-dies-every", type=_not_negative, default=0.0, help="the same, of all beside an engine"
    )
    deaths.add_argument("--back-after-seconds", type=_not_negative, default=60.0)
    return parser


def _positive(text: str) -> float:
    if 0 < (value := float(text)) <= MOST:
        return value
    raise argparse.ArgumentTypeError(f"expected a number above 0 and at most {MOST:.0e}, got {text}")


def _not_negative(text: str) -> float:
    return _positive(text) if float(text) != 0 else 0.0


def _count(text: str) -> int:
    if (value := int(text)) > 0:
        return value
    raise argparse.ArgumentTypeError(f"expected at least 1, got {text}")


def _count_or_none(text: str) -> int:
    return _count(text) if int(text) != 0 else 0


def _show(asked: Scenario, told: Row) -> None:
    figures = asked.figures
    print(
        f"{asked.devices} devices of {figures.pairs_per_second:,.0f} pairs/s in full batches, "
        f"{1000 * figures.job_seconds:.1f} ms a job beside, {asked.seconds:,.0f} s, seed {asked.seed}"
    )
    headings = {"came": 9, "answered": 10, "dead": 6, "again": 7, "inside": 8, "pairs/s": 9}
    headings |= {f"p{share} s": 9 for share in (50, 95, 99)}
    print(f"{'':12}" + "".join(f"{heading:>{width}}" for heading, width in headings.items()))
    for lane in LANES:
        row = told[lane]
        numbers = [row[f"p{share}_seconds"] for share in (50, 95, 99)]
        rate = row["pairs_per_second"] or 0
        print(
            f"{lane:12}{row['came']:9,}{row['answered']:10,}{row['dead']:6}{row['delivered_again']:7}{row['inside']:8,}"
            f"{rate:9,.0f}"
            + "".join(f"{number:9.3f}" if number is not None else f"{'':9}" for number in numbers)
        )
    print(f"devices busy {told['devices_busy']:.1%}; {told['jobs_inside']:.1f} jobs inside in the mean")
    if "devices" in told:
        print(f"devices: at most {told['devices']['most']}, {told['devices']['at_the_end']} at the end")


if __name__ == "__main__":
    with ends_quietly():
        main()
