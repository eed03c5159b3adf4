"""How target assignment and losses grow with the work: boxes, image size, classes, images of a batch.

    python -m bench.growth                        # a table with the exponent between neighbours
    python -m bench.growth --axes boxes --draw growth.png

An exponent of 1 is linear growth; below it the work shares something. Each axis is a function that returns its points.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench.losses import CLASSES, SIZE, draw_maps, draw_truths, our_assignment, our_step
from bench.ratios import header, seconds, table

REPEATS = 3


class Point(NamedTuple):
    """How much of something, and processor seconds of one run on one thread."""

    amount: float
    seconds: float


def measure(run: Callable[[], Any]) -> float:
    """The median over some runs, after one that warms up."""
    return median(seconds(run, 1)[1] for _ in range(REPEATS))


def by_boxes() -> list[Point]:
    """Assignment alone, of 4 images with that many boxes each."""
    return [Point(count, measure(our_assignment(draw_truths([count] * 4)))) for count in (1, 10, 100, 300, 1000, 3000)]


def by_boxes_for_truths() -> list[Point]:
    """The same with the default rule for low quality."""
    counts = (1, 10, 100, 300, 1000, 3000)
    return [Point(count, measure(our_assignment(draw_truths([count] * 4), "truth"))) for count in counts]


def by_boxes_with_losses() -> list[Point]:
    """Assignment and losses, of 4 images with that many boxes each."""
    maps = draw_maps(4)
    return [Point(count, measure(our_step(maps, draw_truths([count] * 4)))) for count in (1, 10, 100, 300, 1000, 3000)]


def by_pixels() -> list[Point]:
    """Assignment and losses of one image with 30 boxes, by its pixels."""
    sizes = [(256, 256), (512, 512), (800, 1344), (1600, 1600), (2304, 2304)]
    return [Point(size[0] * size[1], step(1, size, CLASSES)) for size in sizes]


def by_classes() -> list[Point]:
    """Assignment and losses of one image with 30 boxes."""
    return [Point(count, step(1, SIZE, count)) for count in (1, 10, 80, 365)]


def by_images() -> list[Point]:
    """Assignment and losses of a batch, 30 boxes an image."""
    return [Point(count, step(count, SIZE, CLASSES)) for count in (1, 2, 4, 8)]


AXES: dict[str, Callable[[], list[Point]]] = {
    "boxes": by_boxes,
    "boxes (truth)": by_boxes_for_truths,
    "boxes, with losses": by_boxes_with_losses,
    "pixels": by_pixels,
    "classes": by_classes,
    "images": by_images,
}


def step(num_images: int, image_size: tuple[int, int], num_classes: int) -> float:
    """Processor seconds of assignment and losses."""
    maps = draw_maps(num_images, image_size=image_size, num_classes=num_classes)
    truths = draw_truths([30] * num_images, image_size=image_size, num_classes=num_classes)
    return measure(our_step(maps, truths))


def rows(axis: str, points: list[Point]) -> Iterator[list[str]]:
    """One per point: the exponent is that of the growth from the point before."""
    for before, point in zip([None, *points], points, strict=False):
        exponent = ""
        if before is not None:
            exponent = f"{math.log(point.seconds / before.seconds) / math.log(point.amount / before.amount):.2f}"
        yield [axis, f"{point.amount:g}", f"{1e3 * point.seconds:.4g}", exponent]


def draw(path: Path, found: dict[str, list[Point]]) -> None:
    """One panel per axis, both scales logarithmic, with a line of linear growth through the last point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(found), 3.5), layout="constrained")
    for panel, (axis, points) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        last = points[-1]
        panel.loglog([p.amount for p in points], [1e3 * p.seconds for p in points], "o-")
        linear = [1e3 * last.seconds * p.amount / last.amount for p in points]
        panel.loglog([p.amount for p in points], linear, ":", color="grey", label="linear")
        panel.set(xlabel=axis, ylabel="CPU ms, 1 thread")
        panel.legend()
    figure.savefig(path)


def main() -> None:
    """Measure, print and perhaps draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--draw", type=Path, help="a picture; needs matplotlib")
    options = parser.parse_args()
    print(header())
    found = {axis: AXES[axis]() for axis in options.axes}
    columns = ["axis", "amount", "CPU ms", "exponent from the row before"]
    print(table(columns, [row for axis, points in found.items() for row in rows(axis, points)]))
    if options.draw:
        draw(options.draw, found)


if __name__ == "__main__":
    main()
