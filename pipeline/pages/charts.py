"""Parts of charts that pages share: their colours, a small figure, points with intervals.

Matplotlib is imported on first use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of Okabe and Ito: told apart by everyone, and by their lightness in print.
BLUE, ORANGE, GREEN, RED, SKY, PURPLE = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7"
COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
LINES = ("-", "--", "-.", ":")
GREY, INK = "#c3cad1", "#1d2733"


class Chart(NamedTuple):
    """A chart: its picture, what it shows for those who do not see it, and what to read from it."""

    uri: str
    alt: str
    caption: str


def new_chart(*, width: float = 5.2, height: float = 3.5) -> tuple[Figure, Axes]:
    """A figure of one panel, in inches, whose text can be read on a phone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def as_label(name: str) -> str:
    """A name as matplotlib's text: between dollars would be TeX, and what begins with _ stays out of legends."""
    escaped = name.replace("$", r"\$")
    return f" {escaped}" if name.startswith("_") else escaped


def style(index: int) -> dict[str, Any]:
    """Colour and dashes of a curve: both differ, so that colour is never needed."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index // 2 % len(LINES)], "linewidth": 2}


def draw_bars(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    intervals: Sequence[tuple[float, float] | None],
    *,
    colour: str = BLUE,
) -> None:
    """Horizontal bars from top to bottom with their 95 % intervals and values."""
    places = list(range(len(names)))
    axes.barh(places, values, color=colour, height=0.62)
    for place, value, interval in zip(places, values, intervals, strict=True):
        end = value
        if interval is not None:
            low, high = interval
            axes.plot([low, high], [place, place], color=INK, linewidth=1.5, marker="|", markersize=7)
            end = max(value, high)
        axes.annotate(f" {value:.3f}", (end, place), va="center", fontsize=9)
    axes.set_yticks(places, list(names))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.18)
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlim(left=min(0.0, *values, *(low for low, _ in filter(None, intervals))))
