"""Laws of groups by name."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.formats.grouping import group_names, label_images
from pipeline.params.data import ByColumn

HASH = "Zx0" + "f" * 29


@pytest.mark.parametrize(
    ("path", "pattern", "names"),
    [
        ("a/frame_12.png", None, {}),
        ("patient7/3.png", r"patient\d+", {"group": "patient7"}),
        ("patient7/3.png", r"patient(\d+)/(\d)", {"group": "7"}),
        ("patient/3.png", r"patient(\d+)?", {}),  # the group is there, but matches nothing
        ("b/3.png", r"patient(\d+)", {}),
        (f"train/images/cell_1_jpg.rf.{HASH}.jpg", None, {"Roboflow name": "cell_1_jpg"}),
        (f"valid/cell.v2_png.rf.{HASH}.png", r"\w+/", {"group": "valid/", "Roboflow name": "cell.v2_png"}),
        ("notes.rf.txt", None, {}),
    ],
)
def test_names_of_an_image(path: str, pattern: str | None, names: dict[str, str]) -> None:
    assert group_names(path, pattern, {}) == names


def test_group_of_a_column_is_its_value() -> None:
    columns = {"patient": "7", "site": "north"}
    assert group_names("patient8/3.png", ByColumn(column="patient"), columns) == {"group": "7"}
    assert group_names("patient8/3.png", ByColumn(column="video"), columns) == {}


def test_images_are_one_group_by_any_chain_of_names() -> None:
    # 0 and 1 are of one patient, 1 and 2 one file, 2 and 3 near-identical; 4 has the patient's name as Roboflow's
    labels = label_images([
        [("file", "a"), ("group", "p1")],
        [("file", "b"), ("group", "p1")],
        [("file", "b"), ("copy", 3)],
        [("file", "c"), ("copy", 3)],
        [("file", "d"), ("Roboflow name", "p1")],
        [],
    ])  # fmt: skip
    np.testing.assert_array_equal(labels[:, None] == labels, [
        [True, True, True, True, False, False],
        [True, True, True, True, False, False],
        [True, True, True, True, False, False],
        [True, True, True, True, False, False],
        [False, False, False, False, True, False],
        [False, False, False, False, False, True],
    ])  # fmt: skip
