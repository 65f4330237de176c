"""What `pytest_plugins = "rerankq.testing"` brings. PYTEST_DONT_REWRITE: no asserts here."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from rerankq.testing.fakes import FakeRerankClient

if TYPE_CHECKING:
    from rerankq.local.stack import LocalStack


@pytest.fixture
def rerank_client() -> FakeRerankClient:
    """A client for this test alone, without Redis: `.calls` tells what was asked, `.fail_next(…)` what goes wrong."""
    return FakeRerankClient()


@pytest.fixture(scope="session")
def rerank_service() -> "Iterator[LocalStack]":
    """A real Redis and a real worker with the small model, or with `RERANKQ_MODEL`, for the whole run.

    `rerank_service.broker_url` is its address, `rerank_service.client()` a client of it.
    """
    from rerankq.local.failure import Unavailable
    from rerankq.local.stack import LocalStack

    with ExitStack() as running:
        try:
            stack = running.enter_context(LocalStack())
        except Unavailable as error:
            pytest.fail(str(error), pytrace=False)
        yield stack
