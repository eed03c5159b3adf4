"""Take the pictures of the project's own pages: the reports of evaluate and of a sweep, and the page of the service.

python -m docs.page_screenshots --help says how.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect

from docs.screenshots import PATIENCE_MS, demand_chromium, opened, save

FOLDER = Path(__file__).parent / "report"


@contextmanager
def opened_report(path: Path, *, chromium: str) -> Iterator[Page]:
    """A report, which lies in a file."""
    FOLDER.mkdir(exist_ok=True)
    with opened(path.resolve().as_uri(), chromium=chromium) as (page, _):
        page.unroute_all()
        page.goto(path.resolve().as_uri())
        yield page


def take_report(path: Path, *, chromium: str) -> None:
    """The top of reports/evaluate.html, its mistakes, and one of them enlarged."""
    with opened_report(path, chromium=chromium) as page:
        page.set_viewport_size({"width": 1200, "height": 820})
        save(page, "verdict", folder=FOLDER)
        page.locator("#mistakes").scroll_into_view_if_needed()
        page.evaluate(
            "document.querySelector('#mistakes').previousElementSibling.scrollIntoView({behavior: 'instant'})"
        )
        save(page, "mistakes", folder=FOLDER)
        page.set_viewport_size({"width": 1000, "height": 640})
        page.locator("#mistakes .chosen .card").nth(1).click()
        save(page, "enlarged", folder=FOLDER)


def take_sweep_report(path: Path, *, chromium: str) -> None:
    """The top of reports/sweep.html."""
    with opened_report(path, chromium=chromium) as page:
        page.set_viewport_size({"width": 1000, "height": 760})
        save(page, "sweep", folder=FOLDER)


def take_service(address: str, picture: Path, *, chromium: str) -> None:
    """The page of a running service, with the detections on a picture."""
    with opened(address, chromium=chromium) as (page, _):
        page.set_viewport_size({"width": 1000, "height": 690})
        page.goto(f"{address}/")
        page.set_input_files("#file", str(picture))
        expect(page.locator("#count")).to_contain_text("candidates shown", timeout=PATIENCE_MS)
        page.locator("#slider").fill("0.48")
        page.locator("#rows tr").first.hover()
        page.screenshot(path=FOLDER.parent / "serve.jpg", type="jpeg", quality=82)


def main() -> None:
    """Take the pictures of the pages that are named."""
    parser = argparse.ArgumentParser(prog="python -m docs.page_screenshots", description=__doc__)
    parser.add_argument("--report", type=Path, help="reports/evaluate.html")
    parser.add_argument("--sweep-report", type=Path, help="reports/sweep.html")
    parser.add_argument("--service", nargs=2, metavar=("URL", "PICTURE"), help="a running service, and what to show it")
    arguments = parser.parse_args()
    chromium = demand_chromium()
    if arguments.report is not None:
        take_report(arguments.report, chromium=chromium)
    if arguments.sweep_report is not None:
        take_sweep_report(arguments.sweep_report, chromium=chromium)
    if arguments.service:
        take_service(arguments.service[0].rstrip("/"), Path(arguments.service[1]), chromium=chromium)


if __name__ == "__main__":
    main()
