"""Charts of reports/sweep.html."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.pages.charts import BLUE, GREY, INK, ORANGE, RED, as_label, new_chart
from pipeline.runs.sweep_folder import FAILED, FINISHED, RUNNING, STOPPED
from pipeline.sweep.importance import CHANCE, Importance
from pipeline.sweep.ranking import Setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DARK = "#7a8590"  # grey, of lines: with a contrast of 3 to the page
# Colour, dashes and the mark at the last epoch: each alone tells the states apart.
STATES: dict[str, dict[str, Any]] = {
    FINISHED: {"color": DARK, "linestyle": "-", "marker": "o", "markerfacecolor": DARK},
    STOPPED: {"color": ORANGE, "linestyle": "--", "marker": "o", "markerfacecolor": "white"},
    FAILED: {"color": RED, "linestyle": ":", "marker": "x"},
    RUNNING: {"color": INK, "linestyle": ":", "marker": ">"},
}
WORDS = {FINISHED: "trained to the end", STOPPED: "stopped early", FAILED: "failed", RUNNING: "not ended"}


def draw_curves(settings: Sequence[Setting]) -> Figure:
    """AP on val over the epochs of every training, the winner's in blue.

    Args:
        settings: the best first.
    """
    chart, axes = new_chart(width=7.4, height=4.0)
    shown: dict[str, Any] = {}
    for rank, setting in reversed(list(enumerate(settings))):
        for training in setting.trainings:
            if not training.points:
                continue
            line, label = STATES[training.state], WORDS[training.state]
            if rank == 0:
                line, label = (
                    {**line, "color": BLUE, "linewidth": 3, "zorder": 3},
                    f"the winner, trial {setting.number}",
                )
            last = [len(training.points) - 1]
            (shown[label],) = axes.plot(
                *zip(*training.points, strict=True), **{"linewidth": 1.5, **line}, markevery=last
            )
    axes.set(xlabel="epoch", ylabel="AP on val")
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    order = sorted(shown, key=lambda label: not label.startswith("the winner"))
    chart.legend(
        [shown[label] for label in order], order, loc="outside upper center", ncols=2, fontsize=9, frameon=False
    )
    return chart


def draw_importances(importances: Sequence[Importance]) -> Figure:
    """The share of each parameter in the importance; grey where it may be chance."""
    chart, axes = new_chart(width=6.0, height=1.0 + 0.5 * max(2, len(importances)))
    for place, one in enumerate(importances):
        is_chance = one.chance > CHANCE
        axes.barh(place, one.share, height=0.62, color=GREY if is_chance else BLUE)
        axes.annotate(f" {one.share:.2f}{' (may be chance)' if is_chance else ''}", (one.share, place), va="center")
    axes.set_yticks(range(len(importances)), [as_label(one.name) for one in importances])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel="share of the importance (PED-ANOVA)", xlim=(0, 1.3))
    return chart
