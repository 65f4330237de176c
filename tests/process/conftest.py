"""Engines for the tests: real processes with a double inside."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.process.engine_under_test import EngineUnderTest

StartEngine = Callable[..., EngineUnderTest]


@pytest.fixture
def start_engine(tmp_path: Path) -> Iterator[StartEngine]:
    started: list[EngineUnderTest] = []

    def start(factory: str, **variables: str) -> EngineUnderTest:
        engine = EngineUnderTest(tmp_path, factory, **variables)
        started.append(engine)
        engine.start()
        return engine

    yield start
    for engine in started:
        engine.stop()
