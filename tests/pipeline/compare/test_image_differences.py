"""Laws of the pictures on which two runs differ most."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.compare.image_differences import best_threshold, draw_differences, f1_of_images, largest_differences
from pipeline.reports.pictures import set_side_by_side
from retinanet.data.splits import Split
from retinanet.evaluation.class_matches import match_results
from tests.judged_world import Row, as_row, exact_results, random_results, random_truth
from tests.small_world import SmallWorld


def two_images() -> tuple[dict[str, Any], list[int], int]:
    """A truth in each of the first two images, none in the third; ids of the images and the class."""
    truth = random_truth(1, num_images=3, crowds=0.0)
    ids, category_id = [image["id"] for image in truth["images"]], truth["categories"][0]["id"]
    truth["annotations"] = [
        {"id": i + 1, "image_id": ids[i], "category_id": category_id, "bbox": [0, 0, 20, 20], "area": 400, "iscrowd": 0}
        for i in range(2)
    ]
    return truth, ids, category_id


def test_threshold_is_where_f1_is_highest() -> None:
    truth, ids, category_id = two_images()
    rows = [(0, 0, 0.9), (0, 100, 0.7), (1, 0, 0.6), (1, 100, 0.3), (2, 100, 0.2)]  # x = 0 is right
    results = [as_row(ids[i], category_id, [x, 0, 20, 20], score) for i, x, score in rows]
    # From .9: 2*1/(1+2) = .67; .7: 2/4 = .5; .6: 4/5 = .8; .3: 4/6; .2: 4/7.
    assert best_threshold(match_results(truth, results)) == 0.6


def test_detections_of_one_score_go_together() -> None:
    truth, ids, category_id = two_images()
    results = [as_row(ids[0], category_id, [x, 0, 20, 20], 0.5) for x in (0, 100, 200, 300)]
    results.append(as_row(ids[1], category_id, [0, 0, 20, 20], 0.8))
    # From .8: 2/3; from .5 with three wrong ones: 4/7. The first of the four alone would be 1.
    assert best_threshold(match_results(truth, results)) == 0.8


def test_f1_of_each_image_by_hand() -> None:
    truth, ids, category_id = two_images()
    rows = [(0, 0, 0.9), (0, 100, 0.8), (1, 100, 0.9), (2, 0, 0.3)]
    matches = match_results(truth, [as_row(ids[i], category_id, [x, 0, 20, 20], score) for i, x, score in rows])
    # One right, one wrong, one truth: 2/3; none right: 0; nothing there and, above .5, nothing found: 1.
    assert f1_of_images(matches, 0.5).tolist() == pytest.approx([2 / 3, 0.0, 1.0])
    assert f1_of_images(matches, 0.2).tolist() == pytest.approx([2 / 3, 0.0, 0.0])


def test_nothing_right_has_the_threshold_1() -> None:
    truth, ids, category_id = two_images()
    assert best_threshold(match_results(truth, [])) == 1.0
    assert best_threshold(match_results(truth, [as_row(ids[2], category_id, [0, 0, 9, 9], 0.5)])) == 1.0


def test_perfect_run_has_f1_1_everywhere() -> None:
    truth = random_truth(2)
    matches = match_results(truth, exact_results(truth))
    assert set(f1_of_images(matches, best_threshold(matches)).tolist()) == {1.0}


def test_pictures_come_by_the_size_of_the_difference_and_none_without() -> None:
    images = [{"file_name": f"{i}.png"} for i in range(4)]
    chosen = largest_differences(images, np.array([0.5, 1.0, 0.2, 0.3]), np.array([0.6, 0.0, 0.2, 0.8]), count=9)
    assert [one.file_name for one in chosen] == ["1.png", "3.png", "0.png"]
    assert (chosen[0].index, chosen[0].f1_a, chosen[0].f1_b) == (1, 1.0, 0.0)
    assert len(largest_differences(images, np.zeros(4), np.ones(4), count=2)) == 2


def test_sheets_of_a_and_b_stand_side_by_side(small_world: SmallWorld) -> None:
    truth = small_world.content()
    results: list[list[Row]] = [random_results(truth, 1), exact_results(truth)]
    matches = [match_results(truth, rows) for rows in results]
    thresholds = [best_threshold(each) for each in matches]
    f1 = [f1_of_images(each, score) for each, score in zip(matches, thresholds, strict=True)]
    chosen = largest_differences(truth["images"], *f1, count=4)
    categories = [category["id"] for category in truth["categories"]]
    sheets = [
        draw_differences(
            Split(truth),
            categories,
            chosen,
            results=results,
            thresholds=thresholds,
            titles=[f"{a}: one", f"{b}: other"],
        )
        for a, b in ("AB", "AB", "XB")
    ]
    assert sheets[0].width > sheets[0].height / 2
    assert sheets[0].tobytes() == sheets[1].tobytes()
    assert sheets[0].tobytes() != sheets[2].tobytes()


def test_pictures_stay_level_under_legends_of_other_height() -> None:
    low, high = Image.new("RGB", (50, 40), "red"), Image.new("RGB", (60, 70), "blue")
    row = set_side_by_side([low, high], ["A", "B"])
    assert row.width == 110
    assert row.getpixel((20, row.height - 1)) == (255, 0, 0)
    assert row.getpixel((80, row.height - 1)) == (0, 0, 255)
    assert row.getpixel((45, row.height - 60)) == (255, 255, 255)
