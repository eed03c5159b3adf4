"""MLflow's pages in a real browser: what docs/tracking.md tells people to do with a sweep, done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page

from docs import screenshots
from docs.screenshots import Sweep
from pipeline.tracking import open_run
from pipeline.tracking.store import connect, find_store
from tests.browser import need_chromium
from tests.servers import running_mlflow

pytestmark = [
    pytest.mark.slow,
    # MLflow declares its tables with what SQLAlchemy deprecates.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

CHILDREN, EPOCHS = 8, 4
PARAMS = ("loss.alpha", "loss.gamma", "matcher.background_iou", "matcher.foreground_iou")


@dataclass(frozen=True)
class Ui:
    """The server's address, an empty page that reaches nothing else, and what the page has asked for elsewhere."""

    address: str
    page: Page
    elsewhere: list[str]
    sweep: Sweep


@pytest.fixture(scope="module")
def chromium() -> str:
    return need_chromium()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose store holds a sweep and a run that is none of its children."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        patch.chdir(folder)
        patch.setenv("DVC_ROOT", str(folder))
        open_run(run_id=None, name="baseline", params={"loss.alpha": 0.25}, tags={}).finish()
        write_sweep(folder / "picture.png")
        yield folder


def write_sweep(picture: Path) -> None:
    """A run with children as `python -m pipeline.sweep` leaves them."""
    with open_run(run_id=None, name="sweep", params={"sweep.trials": CHILDREN}, tags={"kind": "sweep"}) as sweep:
        assert sweep.run_id is not None
        for number in range(CHILDREN):
            settings = [0.1 + number / 20, 0.5 * number, 0.3 + number / 100, 0.5 + number / 100]
            params = dict(zip(PARAMS, settings, strict=True)) | {"seed": 0}
            tags = {"mlflow.parentRunId": sweep.run_id}
            with open_run(run_id=None, name=f"trial {number}", params=params, tags=tags) as run:
                final = 0.6 - 0.02 * (number - 3.2) ** 2
                curve = [final * (epoch + 1) / EPOCHS for epoch in range(EPOCHS)]
                run.log_history([{"epoch": epoch, "step": 60 * epoch, "AP": AP} for epoch, AP in enumerate(curve)])
                for epoch in (1, 3):
                    draw_boxes(picture, epoch)
                    run.log_picture(screenshots.PICTURES, picture, epoch)
                run.log_metrics({"best.AP": final})


def draw_boxes(path: Path, number: int) -> None:
    picture = Image.new("RGB", (64, 48), (70, 70, 90))
    for place in range(number):
        ImageDraw.Draw(picture).rectangle((4 + 20 * place, 8, 18 + 20 * place, 40), outline=(255, 200, 0))
    picture.save(path)


@pytest.fixture(scope="module")
def address(project: Path) -> Iterator[str]:
    arguments = ["--backend-store-uri", f"sqlite:///{project}/mlflow.db", "--workers", "1"]
    with running_mlflow(arguments, folder=project, variables={}) as address:
        yield address


@pytest.fixture
def ui(address: str, chromium: str) -> Iterator[Ui]:
    sweep = screenshots.find_sweep(connect(find_store()), metric="best.AP")
    with screenshots.opened(address, chromium=chromium) as (page, elsewhere):
        yield Ui(address, page, elsewhere, sweep)


def test_sweep_is_the_runs_with_a_parent_and_what_differs_between_them(ui: Ui) -> None:
    assert len(ui.sweep.children) == CHILDREN
    assert ui.sweep.children[0].info.run_name == "trial 3"
    assert ui.sweep.params == list(PARAMS)


def test_runs_of_a_sweep_are_chosen_compared_and_drawn_as_parallel_coordinates(ui: Ui) -> None:
    screenshots.open_table(ui.page, ui.address, ui.sweep)
    names = ui.page.get_by_role("link", name=re.compile("^(trial .|sweep|baseline)$")).all_inner_texts()
    assert names == [f"trial {number}" for number in (3, 4, 2, 5, 1, 6, 0, 7)]  # the best AP first
    screenshots.compare_all(ui.page)
    assert ui.page.get_by_role("heading", name=f"Comparing {CHILDREN} Runs").is_visible()
    screenshots.choose_axes(ui.page, ui.sweep.params, ui.sweep.metric)
    drawn = screenshots.axes_of(ui.page)
    for name in PARAMS:
        assert drawn[name] == [float(child.data.params[name]) for child in ui.sweep.children]
    assert drawn["best.AP"] == [child.data.metrics["best.AP"] for child in ui.sweep.children]
    assert list(drawn) == [*PARAMS, "best.AP"]
    assert ui.page.locator(".parcoords .axis-title").all_text_contents() == list(drawn)
    assert ui.elsewhere == []


def test_contour_shows_the_metric_over_two_parameters(ui: Ui) -> None:
    screenshots.open_table(ui.page, ui.address, ui.sweep)
    screenshots.compare_all(ui.page)
    screenshots.show_contour(ui.page, "loss.alpha", "loss.gamma", "best.AP")
    titles = ui.page.locator(".js-plotly-plot .infolayer text").all_text_contents()
    assert {"loss.alpha", "loss.gamma"} <= set(titles)


def test_pictures_of_all_children_are_shown_by_epoch(ui: Ui) -> None:
    screenshots.open_charts(ui.page, ui.address, ui.sweep, matching=screenshots.PICTURES)
    grid = screenshots.show_pictures(ui.page, step=3)
    grid.locator("img").nth(CHILDREN - 1).wait_for()
    sources = [str(picture.get_attribute("src")) for picture in grid.locator("img").all()]
    assert {run.info.run_id for run in ui.sweep.children} == {source.rpartition("=")[2] for source in sources}
    assert all("step%2B3" in source for source in sources)
    assert ui.elsewhere == []
