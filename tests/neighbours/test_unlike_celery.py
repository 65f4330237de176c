"""Control messages of an application that speaks otherwise than ours; no stock worker is here to stumble over them."""

import pytest
from celery import Celery

from tests.service import Service

WORKERS = 2


@pytest.fixture(scope="module")
def service(idle_service: Service) -> Service:
    idle_service.wait_until(lambda: idle_service.log().count("Connected to") >= WORKERS)
    return idle_service


@pytest.mark.parametrize(
    "settings",
    [
        {"task_serializer": "pickle", "accept_content": ["pickle"]},
        {"broker_transport_options": {"sep": ":"}},
    ],
    ids=["in pickle", "bound under another separator"],
)
def test_they_disconnect_no_worker_of_ours(settings: dict[str, object], service: Service) -> None:
    url, seen = service.redis.url, len(service.log())
    with Celery("unlike", broker=url, set_as_current=False) as unlike:
        unlike.conf.update(settings)
        unlike.control.inspect(timeout=0.5).ping()

    with Celery("stock", broker=url, set_as_current=False) as stock:
        service.wait_until(lambda: len(stock.control.inspect(timeout=2).ping() or ()) == WORKERS)
    told = service.log()[seen:]
    assert "Connected to" not in told
    assert "Control command error" not in told
