"""Tests here may take as long as an installation takes, and ask one service of ours."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.neighbours.side import INSTALLED_WITHIN_SECONDS
from tests.service import Service


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.timeout(INSTALLED_WITHIN_SECONDS + 120))


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(engine="rerankq_worker.doubles:noop") as running:
        yield running
