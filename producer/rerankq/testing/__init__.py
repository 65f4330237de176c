"""For the tests of an application that asks: clients that need no Redis, and a service that is real.

    pytest_plugins = "rerankq.testing"  # in the conftest.py at the root: the fixtures `rerank_client`, `rerank_service`

Without pytest: `FakeRerankClient()`, `AsyncFakeRerankClient()`. Installing rerankq puts nothing into anybody's pytest.
PYTEST_DONT_REWRITE: no asserts here, and a conftest may have imported it before pytest does.
"""

from rerankq.testing.fakes import AsyncFakeRerankClient, FakeRerankClient

__all__ = ["AsyncFakeRerankClient", "FakeRerankClient"]

pytest_plugins = ["rerankq.testing.fixtures"]  # read by pytest alone
