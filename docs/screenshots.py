"""Take the pictures of docs/tracking.md from a store that holds a sweep.

python -m docs.screenshots --help says how; docs/page_screenshots.py takes those of the project's own pages.

The steps here are those that the page tells people to do; tests/test_ui.py takes the same ones.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from playwright.sync_api import Locator, Page, Route, ViewportSize, expect, sync_playwright

from tests.servers import running_mlflow

FOLDER = Path(__file__).parent / "tracking"
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
# In a container there is neither a sandbox nor a GPU; a browser without errands of its own asks nobody but the UI.
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
OPTIONS += ["--disable-background-networking", "--disable-component-update"]
PICTURES = "val/detections"
"""Key of the pictures that a training logs by epoch."""

PATIENCE_MS = 120_000
"""For a page to show what it must, on a machine that is busy with other things."""

SIZE: ViewportSize = {"width": 1200, "height": 700}

PLOTTED = "plots => plots.filter(plot => plot.data).map(plot => JSON.stringify(plot.data))"


@dataclass(frozen=True)
class Sweep:
    """A run and its children, and what of them is worth a look."""

    experiment_id: str
    run_id: str
    children: tuple[Run, ...]
    """The best first."""
    metric: str
    """What the children are ranked by."""

    @property
    def params(self) -> list[str]:
        """Names of the parameters that differ between the children."""
        names = sorted({name for child in self.children for name in child.data.params})
        return [name for name in names if len({child.data.params.get(name) for child in self.children}) > 1]

    def link(self, address: str, *, charts: bool = False) -> str:
        """The children alone, the best first. Sorted by time, the UI would hide them below their parent."""
        children = quote(f"tags.`mlflow.parentRunId` = '{self.run_id}'")
        order = quote(f"metrics.`{self.metric}`")
        link = f"{address}/#/experiments/{self.experiment_id}/runs?searchFilter={children}&orderByKey={order}"
        mode = "&compareRunsMode=CHART" if charts else ""
        return f"{link}&orderByAsc=false{mode}&workflowType=machine_learning"


def find_sweep(client: MlflowClient, *, metric: str, run_id: str | None = None) -> Sweep:
    """The sweep of this run, or else the newest one in the store."""
    for experiment in client.search_experiments():
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        parents = [run.data.tags["mlflow.parentRunId"] for run in runs if "mlflow.parentRunId" in run.data.tags]
        chosen = run_id or next(iter(parents), None)
        if chosen in parents:
            children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == chosen]
            children.sort(key=lambda run: run.data.metrics.get(metric, -1.0), reverse=True)
            return Sweep(experiment.experiment_id, chosen, tuple(children), metric)
    raise ValueError(f"the store holds no sweep {run_id or '(a run with children)'}: make one with `make sweep`")


def demand_chromium() -> str:
    """The path of the browser, or the end of the command."""
    chromium = find_chromium()
    if chromium is None:
        raise SystemExit(f"none of {', '.join(CHROMIUMS)} is installed; apt-get install chromium")
    return chromium


def find_chromium() -> str | None:
    """The path of a browser that Playwright can drive; None if there is none."""
    return next((path for name in CHROMIUMS if (path := shutil.which(name))), None)


@contextmanager
def opened(address: str, *, chromium: str) -> Iterator[tuple[Page, list[str]]]:
    """An empty page, and the addresses elsewhere than the UI's that it will have asked for in vain."""
    elsewhere: list[str] = []

    def guard(route: Route) -> None:
        if route.request.url.startswith(f"{address}/"):
            route.continue_()
        else:
            elsewhere.append(route.request.url)
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        try:
            page = browser.new_page(viewport=SIZE)
            page.set_default_timeout(PATIENCE_MS)
            page.route("**/*", guard)
            # MLflow greets with a panel that takes a quarter of the page.
            page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
            yield page, elsewhere
        finally:
            browser.close()


def open_table(page: Page, address: str, sweep: Sweep) -> None:
    """The table of the sweep's children."""
    page.goto(sweep.link(address))
    for child in sweep.children[:10]:  # the table draws the rows that are in sight
        page.get_by_role("link", name=str(child.info.run_name), exact=True).first.wait_for()


def choose_columns(page: Page, names: list[str]) -> None:
    """Show these columns instead of what MLflow begins with."""
    page.get_by_role("button", name="Columns", exact=True).click()
    tree, search = page.get_by_test_id("column-selector-tree"), page.get_by_placeholder("Search columns")
    for name in ("Dataset", "Source", "Models", *names):
        search.fill(name)
        tree.get_by_text(name, exact=True).first.click()  # the shortest of those that begin so comes first
    page.keyboard.press("Escape")
    page.get_by_role("columnheader", name=names[0]).first.wait_for()


def compare_all(page: Page) -> None:
    """Choose all runs of the table and press Compare: the page with parallel coordinates."""
    page.get_by_label("Select all runs").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.locator(".axis-title").first.wait_for()


def choose_axes(page: Page, params: list[str], metric: str) -> None:
    """Parallel coordinates of these parameters and this metric, which gives the lines their colour."""
    page.get_by_role("button", name="Clear All").click()
    for label, names in (("Parameters", params), ("Metrics", [metric])):
        page.get_by_text(f"{label}:", exact=True).locator("xpath=following::input[1]/../../..").click()
        for name in names:
            pick(page, name)
        page.keyboard.press("Escape")
    page.locator(".axis-title", has_text=re.compile(f"^{re.escape(metric)}$")).wait_for()


def pick(page: Page, name: str) -> None:
    """Choose from the open list, which draws the options that are in sight."""
    options = "[class*=select-item-option][title]:visible"
    option = page.locator(f"{options}[title='{name}']")
    page.locator(options).first.hover()
    for _ in range(100):
        if option.count():
            break
        page.mouse.wheel(0, 100)
        page.wait_for_timeout(50)
    option.last.click()


def axes_of(page: Page) -> dict[str, list[float]]:
    """What parallel coordinates really draw: name of an axis -> value of each line on it."""
    plots = [json.loads(plot) for plot in page.locator(".js-plotly-plot").evaluate_all(PLOTTED)]
    traces: list[dict[str, Any]] = [trace for plot in plots for trace in plot if trace["type"] == "parcoords"]
    return {axis["label"]: list(axis["values"]) for trace in traces for axis in trace["dimensions"]}


def show_contour(page: Page, x: str, y: str, metric: str) -> None:
    """The tab that draws the metric over two parameters."""
    page.get_by_role("tab", name="Contour Plot").click()
    for axis, name in (("xaxis", x), ("yaxis", y), ("zaxis", metric)):
        page.locator(f"#{axis}-selector").click()
        page.get_by_role("option", name=name, exact=True).click()
    page.locator(".contourlayer path").first.wait_for(state="attached")


def open_charts(page: Page, address: str, sweep: Sweep, *, matching: str) -> None:
    """The charts of the children whose name the regular expression matches, and the pictures, which always stay."""
    page.goto(sweep.link(address, charts=True))
    page.get_by_placeholder("Search metric charts").fill(matching)


def show_curves(page: Page) -> None:
    """The curves, below the pictures: the page draws what is in sight, so it is made taller."""
    page.set_viewport_size({"width": 1200, "height": 1100})
    page.locator(".js-plotly-plot .scatterlayer path").first.wait_for(state="attached")


def show_pictures(page: Page, *, step: int) -> Locator:
    """The grid of pictures at this epoch, a picture for each child, over the whole page."""
    expect(page.locator(".js-plotly-plot")).to_have_count(0)  # the search has done its work
    card = page.get_by_test_id("experiment-view-compare-runs-card").filter(has_text=PICTURES)
    card.get_by_test_id("experiment-view-compare-runs-card-menu").click()
    page.get_by_role("menuitem", name="Configure").click()
    page.get_by_role("switch").last.click()  # the parameters of each run, which would be wider than the pictures
    page.get_by_role("button", name="Save changes").click()
    card.locator("[data-component-id=fullscreen_button_chartcard]").click()
    grid = page.get_by_role("dialog")
    grid.locator("input[type=number]").fill(str(step))
    page.keyboard.press("Tab")
    grid.locator("img").first.wait_for()
    return grid


def save(page: Page, name: str, *, folder: Path = FOLDER) -> None:
    """What the page shows, in few colours: <folder>/<name>.png."""
    page.mouse.move(600, 20)
    page.wait_for_timeout(1500)  # charts and menus glide into their places
    path = folder / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(128).save(path, optimize=True)
    print(f"{path} ({path.stat().st_size // 1000} kB)")


def take_all(page: Page, address: str, sweep: Sweep, *, step: int) -> None:
    """The five pictures of the page; the last one with the detections of this epoch."""
    open_table(page, address, sweep)
    page.get_by_label("Toggle sidebar").click()
    choose_columns(page, [sweep.metric, *sweep.params])
    save(page, "table")
    compare_all(page)
    choose_axes(page, sweep.params, sweep.metric)
    save(page, "parallel_coordinates")
    show_contour(page, sweep.params[0], sweep.params[1], sweep.metric)
    save(page, "contour")
    open_charts(page, address, sweep, matching="^(AP|loss)$")
    show_curves(page)
    save(page, "curves")
    page.set_viewport_size(SIZE)
    open_charts(page, address, sweep, matching=PICTURES)
    show_pictures(page, step=step)
    save(page, "pictures")


def first_step(client: MlflowClient, sweep: Sweep) -> int:
    """The first epoch of which the best child has pictures, 0 if it has none: no child was stopped before it."""
    key = PICTURES.replace("/", "~")  # as MLflow names the files
    names = [file.path for file in client.list_artifacts(sweep.children[0].info.run_id, "images")]
    steps = [re.match(rf"images/{key}\W+step\W+(\d+)", name) for name in names]
    return min((int(step[1]) for step in steps if step), default=0)


def main() -> None:
    """Start the UI on the store and take all pictures."""
    parser = argparse.ArgumentParser(prog="python -m docs.screenshots", description=__doc__)
    parser.add_argument("--store", default="sqlite:///mlflow.db", help="default: %(default)s")
    parser.add_argument("--sweep", metavar="RUN_ID", help="of the sweep's own run; default: the newest sweep")
    parser.add_argument("--metric", default="best.AP", help="what the children are ranked by; default: %(default)s")
    arguments = parser.parse_args()
    chromium = demand_chromium()
    client = MlflowClient(arguments.store)
    try:
        sweep = find_sweep(client, metric=arguments.metric, run_id=arguments.sweep)
    except ValueError as error:
        raise SystemExit(f"screenshots: {error}") from error
    FOLDER.mkdir(exist_ok=True)
    server = ["--backend-store-uri", arguments.store, "--workers", "1"]
    with (
        running_mlflow(server, folder=Path.cwd(), variables={}) as address,
        opened(address, chromium=chromium) as (page, _),
    ):
        take_all(page, address, sweep, step=first_step(client, sweep))


if __name__ == "__main__":
    main()
