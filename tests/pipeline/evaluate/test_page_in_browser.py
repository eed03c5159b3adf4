"""The report in a real browser: filter, sort, enlarge, leaf through, at the width of a desk and of a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from pipeline.evaluate.page import Evaluation, build_page
from pipeline.params import load_params
from retinanet.evaluation.analysis import Confusion
from tests.browser import opened_file
from tests.made_up_analysis import Detection, Truth, make_analysis, make_class, make_errors

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]
NAMES = ("cell", "virus")
HOSTILE = '"><script>document.title = "owned"</script>'


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 40 pictures with a false detection each, and one with a missed object."""
    images = {number: f"{number:02}.png" for number in range(40)} | {40: HOSTILE}
    alarms = [
        Detection(n, (10, 10, 12 + n, 30), 0.9 - n / 100, label=n % 2, kind="background") for n in list(images)[:40]
    ]
    errors = make_errors(alarms, [Truth(40, (10, 10, 60, 60), label=1, found=False)], {"missed": 0.1})
    confusion = Confusion(list(NAMES), np.array([[50, 0, 0], [0, 50, 1], [20, 20, 0]]))
    objects = {"cell": (0.9, 1000), "virus": (0.5, 200), "rare": (0.1, 9), "none": (None, 0)}
    classes = [make_class(name, ap, num_truths=count) for name, (ap, count) in objects.items()]
    analysis = make_analysis(NAMES, errors=errors, confusion=confusion, classes=classes)
    page = build_page(
        Evaluation(
            analysis=analysis,
            params=load_params(ROOT / "params.yaml"),
            names=images,
            read=lambda number: Image.new("RGB", (120, 90), (6 * number, 90, 90)),
            run="d1",
        )
    )
    path = tmp_path_factory.mktemp("report") / "evaluate.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page(report: Path) -> Iterator[Page]:
    with opened_file(report) as page:
        yield page


def shown(page: Page) -> list[str]:
    """File names of the cards in sight, in their order."""
    cards = "items => items.filter(item => !item.hidden).map(item => item.dataset.name)"
    names: list[str] = page.locator("#mistakes .cards > li").evaluate_all(cards)
    return names


def caption(page: Page) -> str:
    return page.locator("dialog p").inner_text()


def test_cards_are_filtered_sorted_enlarged_and_leafed_through(page: Page) -> None:
    assert len(shown(page)) == 24  # of 25: 24 false alarms are dealt, and the missed object
    page.get_by_role("button", name="Show all 25").click()
    assert len(shown(page)) == 25

    page.locator("#mistakes select[name=kind]").select_option("background")
    page.locator("#mistakes select[name=class]").select_option(label="virus")
    page.locator("#mistakes select[name=order]").select_option("small")
    assert shown(page) == [f"{number:02}.png" for number in range(1, 24, 2)]
    assert page.locator("#mistakes output").inner_text() == "12 of 25"

    page.locator("#mistakes .chosen .card").first.click()
    assert caption(page) == "1 of 12: nothing there: virus with score 0.89; no object there"
    assert page.locator("dialog svg").get_attribute("viewBox") == "0 0 120 90"
    page.keyboard.press("z")
    assert page.locator("dialog svg").get_attribute("viewBox") != "0 0 120 90"
    page.keyboard.press("ArrowRight")
    assert caption(page).startswith("2 of 12")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert caption(page).startswith("12 of 12")
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()
    # The browser gives the focus back to the first card, and then tells the page that the dialog is closed.
    expect(page.locator("#mistakes li[data-name='23.png'] .card")).to_be_focused()


def test_a_number_of_the_confusion_matrix_leads_to_its_pictures(page: Page) -> None:
    page.locator(".confusion a", has_text="1").first.click()
    assert shown(page) == [HOSTILE]


def test_a_name_that_is_a_script_does_not_run(page: Page) -> None:
    assert page.title() == "Evaluation on test"


def test_nothing_is_wider_than_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.set_viewport_size({"width": 1200, "height": 800})


def test_a_table_is_sorted_by_its_heads_numbers_by_value_and_what_is_missing_last(page: Page) -> None:
    def names() -> list[str]:
        found: list[str] = page.locator("#classes tbody th").all_inner_texts()
        return found

    assert names() == ["rare", "virus", "cell", "none"]  # the weakest first
    head = page.locator("#classes thead th", has_text="objects")
    head.get_by_role("button").click()
    assert names() == ["cell", "virus", "rare", "none"]  # 1000, 200, 9 and 0 objects; as texts 9 would come first
    assert head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").press("Enter")
    assert names() == ["none", "rare", "virus", "cell"] and head.get_attribute("aria-sort") == "ascending"
    page.locator("#classes thead th", has_text="AP50").get_by_role("button").click()
    assert names()[-1] == "none" and head.get_attribute("aria-sort") is None
    page.locator("#classes thead th", has_text="class").get_by_role("button").click()
    assert names() == ["cell", "none", "rare", "virus"]


def test_on_paper_nothing_is_to_press_and_galleries_end(page: Page) -> None:
    page.reload()
    page.get_by_role("button", name="Show all 25").click()
    page.emulate_media(media="print")
    try:
        for selector in (".controls", ".more", ".questions", "dialog"):
            assert not page.locator(selector).first.is_visible()
        visible = "items => items.filter(item => item.checkVisibility()).map(item => item.dataset.name)"
        assert page.locator("#mistakes .cards > li").evaluate_all(visible) == shown(page)[:20]
        page.locator("#mistakes select[name=kind]").select_option("background", force=True)
        assert page.locator("#mistakes .cards > li").evaluate_all(visible) == shown(page)[:20]
        page.set_viewport_size({"width": 700, "height": 1000})  # A4 without its margins, at 96 px per inch
        assert page.evaluate("document.documentElement.scrollWidth") == 700
    finally:
        page.emulate_media(media="screen")
        page.set_viewport_size({"width": 1200, "height": 800})
