"""The report of a sweep in a real browser: its table sorts by the values, and nothing is wider than phone or paper."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import Page

from pipeline.runs.sweep_folder import FAILED
from pipeline.sweep.importance import Importance
from pipeline.sweep.page import build_page
from tests.browser import opened_file
from tests.pipeline.sweep.made_up_sweep import make_outcome, make_setting

pytestmark = pytest.mark.slow
HOSTILE = '"><script>document.title = "owned"</script>'


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("sweep")
    plots = [folder / f"sweep_{name}.png" for name in ("map", "slices", "parallel")]
    for plot in plots:
        Image.new("RGB", (1280, 320), (40, 90, 160)).save(plot)
    # By three digits the first two learning rates look alike, and as texts 1e-05 would be the largest.
    rates = [0.0100001, 0.0100002, 1e-05]
    settings = [
        make_setting(n, {"optim.lr": lr, "model.backbone": f"r{n}"}, 0.5 - n / 10) for n, lr in enumerate(rates)
    ]
    settings.append(make_setting(3, {"optim.lr": 0.5, "model.backbone": HOSTILE}, state=FAILED, error=HOSTILE * 5))
    importances = [Importance("optim.lr", 0.8, 0.005), Importance("model.backbone", 0.2, 0.4)]
    space = {"optim.lr": {"loguniform": [1e-5, 0.5]}, "model.backbone": {"choice": ["r0", "r1", "r2", HOSTILE]}}
    outcome = make_outcome(settings, importances=importances, sweep={"space": space})
    path = folder / "sweep.html"
    path.write_text(build_page(outcome, command="dvc exp run " + "-S optim.lr=0.01 " * 9, plots=plots))
    with opened_file(path) as page:
        yield page


def test_settings_are_sorted_by_their_values_and_failed_ones_stay_last_by_ap(page: Page) -> None:
    def numbers() -> str:
        return "".join(page.locator("#settings-table tbody th").all_inner_texts())

    def press(text: str) -> None:
        page.locator("#settings-table thead th", has_text=text).first.get_by_role("button").click()

    assert numbers() == "0123"
    press("lr")
    assert numbers() == "3102"
    press("lr")
    assert numbers() == "2013"
    press("AP")
    assert numbers() == "0123"
    press("AP")
    assert numbers() == "2103"
    assert page.title() == "Sweep abc"


@pytest.mark.parametrize(("width", "media"), [(1200, "screen"), (360, "screen"), (700, "print")])
def test_nothing_is_wider_than_a_desk_a_phone_and_a_sheet_of_paper(page: Page, width: int, media: str) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(media=media)  # type: ignore[arg-type]
    try:
        assert page.evaluate("document.documentElement.scrollWidth") == width
    finally:
        page.emulate_media(media="screen")
