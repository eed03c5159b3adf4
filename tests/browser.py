"""A browser for pages, where one is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from docs.screenshots import CHROMIUMS, OPTIONS, find_chromium


def need_chromium() -> str:
    """The path of the browser; without one the test fails on CI and is skipped elsewhere."""
    found = find_chromium()
    if found is None:
        missing = f"none of {', '.join(CHROMIUMS)} is installed (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return found


@contextmanager
def opened_file(path: Path) -> Iterator[Page]:
    """A page of 1200 x 800 px that shows the file; at the end it has complained of nothing."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need_chromium(), args=OPTIONS)
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        yield page
        browser.close()
    assert complaints == []
