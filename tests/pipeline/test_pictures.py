"""The laws of pipeline/reports/pictures.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageColor

from pipeline.reports.pictures import CLASS_COLOURS, GAP, MISSED, STRIP, TILE, WRONG, SheetPicture, draw_sheet

Detection = tuple[Sequence[float], float, int]
GREY = (90, 90, 90)


def sheet_picture(
    truths: Sequence[tuple[Sequence[float], int]] = (),
    detections: Sequence[Detection] = (),
    *,
    size: tuple[int, int] = (160, 160),
    mode: str = "RGB",
) -> SheetPicture:
    """A grey picture of rows (box, label) and (box, score, label)."""
    return SheetPicture(
        image=Image.new("RGB", size, GREY).convert(mode),
        title="a.png",
        truth_boxes=np.array([box for box, _ in truths], dtype=np.float32).reshape(-1, 4),
        truth_labels=np.array([label for _, label in truths], dtype=np.int64),
        boxes=np.array([box for box, _, _ in detections], dtype=np.float32).reshape(-1, 4),
        scores=np.array([score for _, score, _ in detections], dtype=np.float32),
        labels=np.array([label for _, _, label in detections], dtype=np.int64),
        class_names=["cat", "dog"],
    )


def draw_tile(picture: SheetPicture, *, score_threshold: float = 0.4) -> Image.Image:
    """The one picture of a sheet, without legend and title."""
    sheet = draw_sheet([picture], columns=1, score_threshold=score_threshold)
    height = round(picture.image.height * TILE / max(picture.image.size))
    return sheet.crop((GAP, sheet.height - GAP - height, GAP + TILE, sheet.height - GAP))


def colours(image: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}


def rgb(colour: str) -> tuple[int, ...]:
    return ImageColor.getrgb(colour)


# On the sheet a picture of 160 px is twice as large: this box has its corners at 80, 80 and 240, 240.
BOX = (40, 40, 120, 120)
INSIDE = (40, 40, 120, 80)  # the upper half of BOX: IoU 3200 / 6400 = 1/2, just enough
TOO_SMALL = (40, 40, 120, 79)  # IoU 3120 / 6400 < 1/2


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("box", [BOX, INSIDE])
def test_right_detection_wears_the_colour_of_its_class(box: Sequence[float], label: int) -> None:
    tile = draw_tile(sheet_picture([(BOX, label)], [(box, 0.9, label)]))
    assert tile.getpixel((80, 130)) == rgb(CLASS_COLOURS[label])
    assert not colours(tile) & {rgb(WRONG), rgb(MISSED)}


@pytest.mark.parametrize(("box", "label"), [(BOX, 1), (TOO_SMALL, 0)])
def test_detection_of_wrong_class_or_place_is_red_and_its_truth_missed(box: Sequence[float], label: int) -> None:
    tile = draw_tile(sheet_picture([(BOX, 0)], [(box, 0.9, label)]))
    assert {rgb(WRONG), rgb(MISSED)} <= colours(tile)
    assert not colours(tile) & {rgb(colour) for colour in CLASS_COLOURS}


def test_second_detection_of_a_truth_is_wrong() -> None:
    # The higher score (here the second row) takes the truth.
    tile = draw_tile(sheet_picture([(BOX, 0)], [((42, 42, 118, 118), 0.6, 0), (BOX, 0.9, 0)]))
    assert tile.getpixel((80, 130)) == rgb(CLASS_COLOURS[0])
    assert tile.getpixel((84, 130)) == rgb(WRONG)  # the edge at 42 px, twice as large
    assert rgb(MISSED) not in colours(tile)


def test_detection_below_the_threshold_is_not_drawn() -> None:
    tile = draw_tile(sheet_picture([(BOX, 0)], [(BOX, 0.39, 0), ((5, 5, 20, 20), 0.39, 1)]))
    assert rgb(MISSED) in colours(tile)
    assert rgb(WRONG) not in colours(tile)


def test_score_equal_to_the_threshold_is_drawn() -> None:
    assert rgb(WRONG) in colours(draw_tile(sheet_picture([], [(BOX, 0.4, 0)])))


def test_picture_without_boxes_stays_as_it_is() -> None:
    assert colours(draw_tile(sheet_picture())) == {GREY}


def test_pictures_stand_in_rows_of_columns() -> None:
    one, sheet = (draw_sheet([sheet_picture()] * n, columns=3, score_threshold=0.4) for n in (3, 7))
    # Three columns: 12 + 3 * (320 + 12) = 1008 px; seven pictures take three rows, two more than three pictures.
    assert sheet.width == one.width == 1008
    assert sheet.height - one.height == 2 * (STRIP + TILE + GAP)


@pytest.mark.parametrize("size", [(160, 40), (40, 160), (1, 900), (900, 1)])
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_any_shape_and_mode_of_picture_is_drawn(size: tuple[int, int], mode: str) -> None:
    picture = sheet_picture([((0, 0, 1, 1), 0)], [((0, 0, *size), 0.5, 1)], size=size, mode=mode)
    sheet = draw_sheet([picture] * 2, columns=2, score_threshold=0.4)
    assert sheet.width == GAP + 2 * (TILE + GAP)
    assert rgb(WRONG) in colours(sheet)


def test_no_pictures_make_a_sheet_of_the_legend_only() -> None:
    empty, one = (draw_sheet([sheet_picture()] * n, columns=4, score_threshold=0.4) for n in (0, 1))
    assert one.height - empty.height == STRIP + TILE + GAP


def test_same_pictures_give_the_same_bytes_and_are_not_changed() -> None:
    picture = sheet_picture([(BOX, 0)], [(BOX, 0.9, 0), ((5, 5, 20, 20), 0.5, 1)])
    first, second = (draw_sheet([picture] * 3, columns=2, score_threshold=0.4).tobytes() for _ in range(2))
    assert first == second
    assert colours(picture.image) == {GREY}


def test_sheet_without_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="columns is 0; a sheet needs at least 1"):
        draw_sheet([sheet_picture()], columns=0, score_threshold=0.4)
