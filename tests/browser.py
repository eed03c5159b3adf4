"""A browser for pages, where one is installed."""

from __future__ import annotations

import os

import pytest

from docs.screenshots import CHROMIUMS, find_chromium


def need_chromium() -> str:
    """The path of the browser; without one the test fails on CI and is skipped elsewhere."""
    found = find_chromium()
    if found is None:
        missing = f"none of {', '.join(CHROMIUMS)} is installed (Debian: apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return found
