"""An engine whose pass holds the interpreter, so that none of its own threads can end it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rerankq_worker.link.client import EngineKilledTwice
from tests.process.engine_under_test import EngineUnderTest, eventually, rows_of

POISON = 666


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineUnderTest]:
    running = EngineUnderTest(tmp_path, f"treacherous?freeze={POISON}", RERANKQ_STUCK_AFTER_SECONDS="0.5")
    running.start()
    yield running
    running.stop()


def test_a_pass_that_never_gives_the_interpreter_back_ends_the_engine_too(engine: EngineUnderTest) -> None:
    with pytest.raises(EngineKilledTwice):
        engine.scores(rows_of(4, token=POISON))

    eventually(lambda: len(engine.exit_codes) == 2)
