"""Flower's pages in a real browser after a real run: what an operator reads there is what happened.

The picture in docs/operations.md is the one that this leaves in `build/flower-workers.png`.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from rerankq.contract.broker import celery_app
from tests.conftest import REPOSITORY
from tests.flower import running_flower
from tests.service import Service

Page = Any  # of playwright, which our own environment lacks

SECRET = "xyzzy"
INTERACTIVE_JOBS, BULK_JOBS = 12, 3
DONE = INTERACTIVE_JOBS + BULK_JOBS
FIRST_PAGE = 15  # rows that Flower shows at once
SEEN_WITHIN_MILLISECONDS = 20_000


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Flower that has watched fifteen jobs be answered and one be refused, all about a secret."""
    with (
        Service() as service,
        running_flower(service.redis.url, tmp_path_factory.mktemp("flower")) as address,
    ):
        wait_until_listening(service)
        texts = [f"about {SECRET}", "about something else"]
        for _ in range(INTERACTIVE_JOBS):
            service.client.rerank(f"what is {SECRET}?", texts, top_n=1)
        for _ in range(BULK_JOBS):
            service.client.submit(f"what is {SECRET}?", texts * 20, lane="bulk").result(20)
        shop = celery_app("shop", service.redis.url, service.redis.url, socket_timeout_seconds=5.0)
        refused = shop.send_task(
            "rerankq.rerank", kwargs={"query": f"what is {SECRET}?"}, queue="rerankq.bulk"
        )
        with pytest.raises(Exception, match="documents"):
            refused.get(timeout=20)
        yield address


def wait_until_listening(service: Service) -> None:
    """Flower learns from events alone: it must have subscribed before the first."""
    redis = service.redis.client()
    deadline = time.monotonic() + 20
    while redis.pubsub_numpat() == 0 and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Page]:
    who = {"username": "admin", "password": "secret"}
    with browser.new_context(http_credentials=who, viewport={"width": 1280, "height": 640}) as context:
        page = context.new_page()
        page.set_default_timeout(SEEN_WITHIN_MILLISECONDS)
        page.goto(f"{address}/workers")
        yield page


def rows(page: Page) -> list[list[str]]:
    """The cells of the table that is shown, row by row."""
    page.locator("tbody tr td:nth-child(2)").first.wait_for()
    told = page.locator("tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent.replace(/\\s/g, '')))"
    )
    return [list(row) for row in told]


def test_both_workers_are_online_and_every_job_is_counted(page: Page) -> None:
    page.locator("tfoot").get_by_text(str(DONE + 1)).first.wait_for()

    told = {worker.partition("@")[0]: cells for worker, *cells in rows(page)}

    picture = REPOSITORY / "build" / "flower-workers.png"
    picture.parent.mkdir(exist_ok=True)
    page.screenshot(path=picture)
    assert set(told) == {"cpu0-interactive", "cpu0-bulk"}
    assert {online for online, *_ in told.values()} == {"Online"}
    active, processed, failed, succeeded = (
        sum(int(count) for count in counts)
        for counts in zip(*(cells[1:5] for cells in told.values()), strict=True)
    )
    assert (active, processed, failed, succeeded) == (0, DONE + 1, 1, DONE)


def test_every_task_is_listed_with_its_end_and_its_worker(page: Page) -> None:
    page.get_by_role("link", name="Tasks").click()
    page.get_by_text(f"Showing 1 to {FIRST_PAGE} of {DONE + 1} tasks").wait_for()

    told = rows(page)

    assert {name for name, *_ in told} == {"rerankq.rerank"}
    assert sorted({state for _, _, state, *_ in told}) == ["FAILURE", "SUCCESS"]
    assert {worker.partition("@")[0] for *_, worker in told} <= {"cpu0-interactive", "cpu0-bulk"}


def test_a_task_says_how_much_it_was_and_how_it_went(page: Page) -> None:
    page.get_by_role("link", name="Tasks").click()
    page.get_by_role("row").filter(has_text="SUCCESS").last.locator("a[href*='/task/']").click()

    page.get_by_text("docs=2 chars=").wait_for()
    page.get_by_text("scored=2/2 tokens=").wait_for()


@pytest.mark.parametrize("part", ["workers", "tasks", "api/tasks", "metrics"])
def test_no_page_shows_what_was_asked(page: Page, address: str, part: str) -> None:
    page.goto(f"{address}/{part}")
    page.get_by_text("rerankq.rerank" if "task" in part else "cpu0-bulk").first.wait_for()

    assert SECRET not in page.content()
