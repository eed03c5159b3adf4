"""How the detector's parts grow with the work: boxes, image size, classes, images of a batch and of a set.

    python -m bench.growth                        # a table with the exponent between neighbours
    python -m bench.growth --axes boxes evaluation --draw growth.png
    python -m bench.growth --write                # into bench/RESULTS.md and bench/growth.png

An exponent of 1 is linear growth; below it the work shares something. Each axis is a function that returns its points.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench import evaluation, loader, postprocess
from bench.losses import CLASSES, SIZE, draw_maps, draw_truths, our_assignment, our_step
from bench.ratios import RESULTS, header, keep, seconds, table

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
# Parts that measure all their axes at once: axis -> pairs of amount and milliseconds.
PARTS: dict[str, Callable[[], dict[str, list[tuple[float, float]]]]] = {
    "post-processing": postprocess.growth,
    "loading": loader.growth,
    "evaluation": evaluation.growth,
}


def measure_axes(name: str) -> dict[str, list[Point]]:
    """The points of an axis, or of all axes of a part."""
    if name in AXES:
        return {f"assignment: {name}" if "boxes" in name else f"losses: {name}": AXES[name]()}
    measured = PARTS[name]()
    return {f"{name}: {axis}": [Point(x, ms / 1e3) for x, ms in pairs] for axis, pairs in measured.items()}


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
    from matplotlib.ticker import NullFormatter

    columns = min(4, len(found))
    lines = math.ceil(len(found) / columns)
    figure = Figure(figsize=(4 * columns, 3.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for (axis, points), panel in zip(found.items(), panels, strict=False):
        last = points[-1]
        panel.loglog([p.amount for p in points], [1e3 * p.seconds for p in points], "o-")
        linear = [1e3 * last.seconds * p.amount / last.amount for p in points]
        panel.loglog([p.amount for p in points], linear, ":", color="grey", label="linear")
        panel.set(xlabel=axis, ylabel="ms, 1 thread")
        panel.xaxis.set_minor_formatter(NullFormatter())  # within one decade they run into each other
        panel.legend()
    for panel in panels:
        panel.set_axis_off()
    figure.savefig(path)


def main() -> None:
    """Measure, print and perhaps draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=[*AXES, *PARTS], default=[*AXES, *PARTS])
    parser.add_argument("--draw", type=Path, help="a picture; needs matplotlib")
    parser.add_argument("--write", action="store_true", help="keep the table in bench/RESULTS.md, and the picture")
    options = parser.parse_args()
    text = header()
    found = {axis: points for name in options.axes for axis, points in measure_axes(name).items()}
    columns = ["axis", "amount", "ms", "exponent from the row before"]
    text += "\n\n" + table(columns, [row for axis, points in found.items() for row in rows(axis, points)])
    print(text)
    picture = options.draw or (RESULTS.with_name("growth.png") if options.write else None)
    if picture:
        draw(picture, found)
    if options.write:
        keep("Cost as the work grows", f"{text}\n\n![Cost as the work grows](growth.png)")


if __name__ == "__main__":
    main()
