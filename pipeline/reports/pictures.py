"""Sheets of images with ground truth and detections, marked right, wrong or missed.

Boxes are drawn after resizing, so that lines and names are sharp at any size. The same images give the same bytes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from retinanet.data.pixels import to_rgb
from retinanet.evaluation.class_matches import match_detections
from retinanet.evaluation.coco_eval import Scores

TILE = 320  # px, the longer side of a picture on the sheet
GAP = 12  # px between tiles
STRIP = 22  # px, the line above a tile and a line of the legend
LABEL = 14  # px, height of a name beside its box
FONT = ImageFont.load_default(size=12)
PAPER, INK, FAINT, SHADE = "white", "#222222", "#aaaaaa", "#555555"
WRONG, MISSED, TRUTH = "#ff2020", "#ff9500", "#ffffff"
# Right detections have the colour of their class; none is close to red or orange, the colours of mistakes.
CLASS_COLOURS = ("#2f8cff", "#19c24a", "#b06bff", "#00c8d7", "#ff5fd2", "#c3dc00", "#2f55d4", "#0b8f6a")

Pixel = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class SheetPicture:
    """One image with ground truth and detections; boxes are xyxy in its own pixels."""

    image: Image.Image
    title: str
    truth_boxes: NDArray[np.float32]  # [M, 4], without crowds
    truth_labels: NDArray[np.int64]  # [M]
    boxes: NDArray[np.float32]  # [D, 4]
    scores: Scores  # [D]
    labels: NDArray[np.int64]  # [D]
    class_names: Sequence[str]


class Mark(NamedTuple):
    """A box to draw: a detection, or a ground-truth box."""

    box: Sequence[float]  # x1, y1, x2, y2
    label: int
    kind: str  # right, wrong, missed or found (ground truth matched by a right detection)
    text: str


def draw_sheet(pictures: Sequence[SheetPicture], *, columns: int, score_threshold: float) -> Image.Image:
    """Draw images in rows under a legend with the counts of right, wrong and missed.

    A detection with at least score_threshold is right if it matches ground truth of its class at IoU 0.5 that no
    detection of higher score matches, as in the evaluation; else it is wrong. Unmatched ground truth is missed.
    """
    if columns < 1:
        raise ValueError(f"columns is {columns}; a sheet needs at least 1")
    judged = [_judge(picture, score_threshold) for picture in pictures]
    tiles = [_draw_tile(picture, marks) for picture, marks in zip(pictures, judged, strict=True)]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    width = GAP + min(columns, max(len(tiles), 2)) * (TILE + GAP)
    legend = _draw_legend(pictures, judged, score_threshold, width=width)
    heights = [legend.height, *(max(tile.height for tile in row) + GAP for row in rows)]
    sheet = Image.new("RGB", (width, sum(heights)), PAPER)
    sheet.paste(legend, (0, 0))
    for row, tiles_of_row in enumerate(rows):
        for column, tile in enumerate(tiles_of_row):
            sheet.paste(tile, (GAP + column * (TILE + GAP), sum(heights[: row + 1])))
    return sheet


def set_side_by_side(sheets: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Join sheets of the same images in a row, each under its title, with the images aligned."""
    tallest = max(sheet.height for sheet in sheets)
    row = Image.new("RGB", (sum(sheet.width for sheet in sheets), STRIP + tallest), PAPER)
    draw = ImageDraw.Draw(row)
    x = 0
    for sheet, title in zip(sheets, titles, strict=True):
        draw.text((x + GAP, GAP / 2), title, font=FONT, fill=INK)
        row.paste(sheet, (x, STRIP + tallest - sheet.height))
        x += sheet.width
    return row


def _judge(picture: SheetPicture, score_threshold: float) -> list[Mark]:
    order = np.argsort(-picture.scores, kind="stable")
    order = order[picture.scores[order] >= score_threshold]
    boxes, labels = picture.boxes[order], picture.labels[order]
    matches = match_detections(boxes, labels, picture.truth_boxes, picture.truth_labels).tolist()
    truth_kinds = ["found" if truth in matches else "missed" for truth in range(len(picture.truth_boxes))]
    truth_texts = [picture.class_names[label] for label in picture.truth_labels]
    kinds = ["right" if match >= 0 else "wrong" for match in matches]
    scores = [f"{score:.2f}".removeprefix("0") for score in picture.scores[order]]
    texts = [f"{picture.class_names[label]} {score}" for label, score in zip(labels, scores, strict=True)]
    truths = zip(picture.truth_boxes.tolist(), picture.truth_labels.tolist(), truth_kinds, truth_texts, strict=True)
    return [Mark(*row) for row in (*truths, *zip(boxes.tolist(), labels.tolist(), kinds, texts, strict=True))]


def _draw_tile(picture: SheetPicture, marks: Sequence[Mark]) -> Image.Image:
    scale = TILE / max(picture.image.size)
    size = (max(round(picture.image.width * scale), 1), max(round(picture.image.height * scale), 1))
    canvas = to_rgb(picture.image).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    scaled = [mark._replace(box=[side * scale for side in mark.box]) for mark in marks]
    for mark in sorted(scaled, key=lambda mark: ("found", "right", "wrong", "missed").index(mark.kind)):
        _draw_box(draw, mark)
    _draw_texts(draw, scaled, size)

    tile = Image.new("RGB", (TILE, STRIP + canvas.height), PAPER)
    tile.paste(canvas, (0, STRIP))
    _draw_title(ImageDraw.Draw(tile), picture.title, Counter(mark.kind for mark in marks))
    return tile


def _colour(mark: Mark) -> str:
    special = {"wrong": WRONG, "missed": MISSED, "found": TRUTH}
    return special.get(mark.kind, CLASS_COLOURS[mark.label % len(CLASS_COLOURS)])


def _draw_box(draw: ImageDraw.ImageDraw, mark: Mark) -> None:
    x1, y1, x2, y2 = mark.box
    corners: list[Pixel] = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
    width = 1 if mark.kind == "found" else 2
    dash = None if mark.kind in ("right", "wrong") else 5.0
    for start, end in pairwise(corners):
        _draw_line(draw, start, end, colour=_colour(mark), width=width, dash=dash)


def _draw_line(
    draw: ImageDraw.ImageDraw, start: Pixel, end: Pixel, *, colour: str, width: int, dash: float | None
) -> None:
    pieces = max(round(math.dist(start, end) / dash), 1) if dash is not None else 1
    for piece in range(0, pieces, 2):
        ends = [piece / pieces, (piece + 1) / pieces]
        points = [(start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])) for t in ends]
        draw.line(points, fill=colour, width=width)


def _draw_texts(draw: ImageDraw.ImageDraw, marks: Sequence[Mark], size: tuple[int, int]) -> None:
    """Draw the names of boxes, mistakes first; leave out names that would cover another."""
    taken: list[Box] = []
    for mark in (mark for kind in ("wrong", "missed", "right") for mark in marks if mark.kind == kind):
        label_box = _find_free_box(mark.box, draw.textlength(mark.text, font=FONT) + 4, size=size, taken=taken)
        if label_box is None:
            continue
        taken.append(label_box)
        draw.rectangle(label_box, fill=_colour(mark))
        draw.text(
            (label_box[0] + 2, label_box[1]), mark.text, font=FONT, fill=INK if _is_light(_colour(mark)) else PAPER
        )


def _find_free_box(box: Sequence[float], width: float, *, size: tuple[int, int], taken: Sequence[Box]) -> Box | None:
    """Return the first free position for a name above, below or inside the box, within the image."""
    x1 = min(max(box[0] - 1, 0.0), max(size[0] - width, 0.0))
    for y1 in (box[1] - LABEL, box[3] + 1, box[1] + 1):
        label_box = (x1, y1, x1 + width, y1 + LABEL)
        if 0 <= y1 <= size[1] - LABEL and not any(_overlap(label_box, other) for other in taken):
            return label_box
    return None


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _is_light(colour: str) -> bool:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140  # ITU-R BT.601 luma, of 255


def _draw_title(draw: ImageDraw.ImageDraw, title: str, counts: Counter[str]) -> None:
    x = float(TILE)
    for kind, colour in (("missed", "#d97800"), ("wrong", WRONG), ("right", INK)):
        text = f"{counts[kind]} {kind}"
        x -= draw.textlength(text, font=FONT) + (10 if x < TILE else 0)
        draw.text((x, 3), text, font=FONT, fill=colour if counts[kind] else FAINT)
    while len(title) > 4 and draw.textlength(title, font=FONT) > x - 10:
        title = "..." + title[4:]  # the end of a file name is more specific than its start
    draw.text((0, 3), title, font=FONT, fill=INK)


def _draw_legend(
    pictures: Sequence[SheetPicture], judged: Sequence[Sequence[Mark]], score_threshold: float, *, width: int
) -> Image.Image:
    kinds = Counter(mark.kind for marks in judged for mark in marks)
    names = {label: name for picture in pictures for label, name in enumerate(picture.class_names)}
    right = Counter(mark.label for marks in judged for mark in marks if mark.kind == "right")
    truths = Counter(mark.label for marks in judged for mark in marks if mark.kind in ("found", "missed"))
    box = (0.0, 0.0, 24.0, 12.0)
    entries = [
        (None, f"images: {len(pictures)}, detections: score {score_threshold:g} and above"),
        (Mark(box, 0, "wrong", ""), f"{kinds['wrong']} wrong"),
        (Mark(box, 0, "missed", ""), f"{kinds['missed']} missed"),
        (Mark(box, 0, "found", ""), "ground truth found"),
        (None, f"{kinds['right']} right:"),
        *((Mark(box, k, "right", ""), f"{names[k]} {right[k]} of {truths[k]}") for k in sorted(right | truths)),
    ]
    return _flow_entries(entries, width=width)


def _flow_entries(entries: Sequence[tuple[Mark | None, str]], *, width: int) -> Image.Image:
    """Draw entries of a swatch (None: text only) and a text in a row, with line breaks as needed."""
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    corners: list[Pixel] = []
    x, y = float(GAP), GAP / 2
    for mark, text in entries:
        advance = ruler.textlength(text, font=FONT) + (30 if mark else 0) + 16
        if x > GAP and x + advance > width:
            x, y = float(GAP), y + STRIP
        corners.append((x, y))
        x += advance
    legend = Image.new("RGB", (width, round(y) + STRIP + GAP // 2), PAPER)
    draw = ImageDraw.Draw(legend)
    for (mark, text), (x, y) in zip(entries, corners, strict=True):
        if mark:
            draw.rectangle((x - 2, y + 1, x + 26, y + 17), fill=SHADE)
            _draw_box(draw, mark._replace(box=(x + 1, y + 4, x + 23, y + 14)))
        draw.text((x + (30 if mark else 0), y + 2), text, font=FONT, fill=INK)
    return legend
