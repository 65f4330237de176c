"""Control messages of an application that speaks otherwise than ours; no stock worker is here to stumble over them."""

from collections.abc import Iterator

import pytest
from celery import Celery

from tests.service import Service

WORKERS = 2


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(engine="rerankq_worker.doubles:noop") as running:
        running.wait_until(lambda: running.log().count("Connected to") == WORKERS)
        yield running


@pytest.mark.parametrize(
    "settings",
    [
        {"task_serializer": "pickle", "accept_content": ["pickle"]},
        {"broker_transport_options": {"sep": ":"}},
    ],
    ids=["in pickle", "bound under another separator"],
)
def test_they_disconnect_no_worker_of_ours(settings: dict[str, object], service: Service) -> None:
    url = service.redis.url
    with Celery("unlike", broker=url, set_as_current=False) as unlike:
        unlike.conf.update(settings)
        unlike.control.inspect(timeout=0.5).ping()

    with Celery("stock", broker=url, set_as_current=False) as stock:
        service.wait_until(lambda: len(stock.control.inspect(timeout=2).ping() or ()) == WORKERS)
    assert service.log().count("Connected to") == WORKERS
    assert "Control command error" not in service.log()
