"""`rerankq doctor` of a local service with a real model: the whole command, and scores that were published."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from rerankq.contract.findings import Finding
from rerankq.doctor import of_jobs, of_workers
from rerankq.local.stack import LocalStack
from rerankq_worker.model.published import golden_pairs
from tests.cli.conftest import Command
from tests.doctor.following import of
from tests.doctor.stand_ins import light_libraries


def test_a_local_service_gives_published_scores_and_loses_nothing_but_with_a_kill(
    rerankq: Command, tmp_path: Path
) -> None:
    rerankq.environment |= {"RERANKQ_MODEL": "small", "RERANKQ_RUNTIME_DIR": str(tmp_path)}
    rerankq.environment["PYTHONPATH"] = str(light_libraries(tmp_path / "libraries"))

    told = json.loads(rerankq.run("doctor", "--json", exit_code=1).out)

    found = [Finding(**each) for each in told["checks"]]
    assert [each.check for each in found if each.verdict in ("warn", "broken")] == ["redis.log"]
    assert of(found, "model.golden").text.startswith("3 published scores of small were met")
    assert of(found, "canary.interactive").verdict == "ok"


@pytest.mark.parametrize(
    ("known", "verdict"), [(True, "broken"), (False, "warn")], ids=["known", "of that name"]
)
def test_scores_that_are_not_the_published_ones_are_told(
    stack: LocalStack, known: bool, verdict: str
) -> None:
    pairs = [asdict(pair) | {"logit": pair.logit + 3} for pair in golden_pairs("small")]
    with stack.client() as client:
        around = of_workers.Around(client.settings)

    (finding,) = of_jobs.golden(
        around, {"model": "small", "known": known, "pairs": pairs}, lambda seconds: seconds
    )

    assert finding.verdict == verdict
    assert pairs[0]["query"] not in str(finding)
