"""Laws of the profile of a data set."""

from __future__ import annotations

from typing import Any

from pipeline.tracking.datasets import profile_of, quartiles


def box(image_id: int, category_id: int, side: float, *, iscrowd: int = 0) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": [0, 0, side, 4 * side], "iscrowd": iscrowd}


def test_profile_counts_boxes_per_class_and_pictures_without_any() -> None:
    split = {
        "images": [{"id": n, "width": 100 * n, "height": 50} for n in (1, 2, 3, 4)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 9, "name": "rare"}],
        "annotations": [box(1, 3, 2), box(1, 3, 4), box(2, 7, 6), box(3, 7, 50, iscrowd=1)],
    }
    profile = profile_of(split)
    assert (profile["images"], profile["annotations"], profile["crowds"], profile["categories"]) == (4, 3, 1, 3)
    assert profile["boxes_per_class"] == {"cat": 2, "dog": 1, "rare": 0}
    assert profile["empty_images"] == 0.5  # 3 holds a crowd only, 4 nothing
    assert profile["image_width"] == {"min": 100, "q1": 175, "median": 250, "q3": 325, "max": 400}
    assert profile["image_height"]["median"] == 50
    # sqrt(w * 4w) = 2w: 4, 8, 12 px
    assert profile["object_size"] == {"min": 4, "q1": 6, "median": 8, "q3": 10, "max": 12}


def test_empty_split_has_a_profile() -> None:
    profile = profile_of({"images": [], "categories": [], "annotations": []})
    assert (profile["images"], profile["empty_images"], profile["object_size"]) == (0, None, None)


def test_one_value_is_all_its_quartiles() -> None:
    assert quartiles([5]) == {"min": 5, "q1": 5, "median": 5, "q3": 5, "max": 5}
    assert quartiles([]) is None
