"""Tests here may take as long as an installation takes; what several share: a service of ours, a browser."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.neighbours.side import INSTALLED_WITHIN_SECONDS, side_environment
from tests.service import Service

BROWSER_PACKAGES = ["playwright==1.65.2", "axe-playwright-python==0.1.8"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(INSTALLED_WITHIN_SECONDS + 120))


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with Service(engine="rerankq_worker.doubles:noop") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium, driven by playwright, which our own environment lacks."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no chromium on this machine")
    python = side_environment(*BROWSER_PACKAGES)
    # It is driven from this process, whose Python is the same; what is there of both is ours.
    sys.path.extend(map(str, python.parents[1].glob("lib/python*/site-packages")))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has none
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()
