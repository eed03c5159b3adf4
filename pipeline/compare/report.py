"""Text output of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.compare.changes import Change
from pipeline.compare.image_differences import ImageDifference
from retinanet.evaluation.bootstrap import Difference

FEW_IMAGES = 50


def verdict(metrics: Mapping[str, Difference]) -> str:
    """One sentence on AP: B is better or worse if the interval excludes 0."""
    ap = metrics["AP"]
    if ap.difference is None or ap.low is None or ap.high is None:
        return "no verdict: the split has no ground truth"
    figures = f"AP {ap.difference:+.3f}, 95 % {ap.low:+.3f} to {ap.high:+.3f}"
    if ap.low > 0:
        return f"B is better ({figures})"
    if ap.high < 0:
        return f"B is worse ({figures})"
    return f"no significant difference ({figures})"


def metrics_table(metrics: Mapping[str, Difference]) -> str:
    """A table with a row for each metric."""
    names = {name: name.removeprefix("per_class.").removesuffix(".AP") for name in metrics}
    width = max(20, *(len(name) + 2 for name in names.values()))
    lines = [f"{'':<{width}}     A       B    B - A   95 % interval       B better in"]
    for name, shown in names.items():
        indent = "  " if name.startswith("per_class.") else ""
        lines.append(f"{indent + shown:<{width}} {figures(metrics[name])}")
    return "\n".join(lines)


def figures(metric: Difference) -> str:
    """The numbers of a row."""
    if metric.a is None:
        return "    -       -        -   no ground truth"
    interval = f"{metric.low:+.3f} .. {metric.high:+.3f}"
    share = 100 * (metric.b_better or 0.0)
    return f"{metric.a:.3f}   {metric.b:.3f}   {metric.difference:+.3f}   {interval}   {share:6.1f} %"


def note_few_images(num_images: int) -> list[str]:
    """A warning if the interval is too narrow; measured in docs/compare.md."""
    if num_images >= FEW_IMAGES:
        return []
    return [f"only {num_images} images: the 95 % interval is narrower than it should be, treat it as a rough guide"]


def note_undefined(metrics: Mapping[str, Difference], resamples: int) -> list[str]:
    """A sentence for each metric that is undefined in some resamples."""
    return [
        f"{name}: {resamples - metric.resamples} of {resamples} resamples contain no ground truth for it and are left "
        "out; a metric based on so few images says little"
        for name, metric in metrics.items()
        if metric.a is not None and metric.resamples < resamples
    ]


def changes_text(changes: Mapping[str, Any]) -> str:
    """The differences between the runs, one per line."""
    params, environment = changes["params"], changes["environment"]
    lines = ["params  not known for both runs"] if params is None else ["params", *change_lines(params)]
    lines += [f"data    {changes['data']}", f"code    {indented(changes['code'])}"]
    known = environment is not None
    lines += ["environment", *change_lines(environment)] if known else ["environment   not recorded for both runs"]
    return "\n".join(lines)


def change_lines(changes: Mapping[str, Change]) -> list[str]:
    """Lines of the form `name: A -> B`."""
    none = ["  the same"]
    texts = {name: ["absent" if text is None else text for text in pair] for name, pair in changes.items()}
    return [f"  {name}: {old} -> {new}" for name, (old, new) in texts.items()] or none


def indented(text: str) -> str:
    """Indent all lines but the first."""
    return text.replace("\n", "\n        ")


def pictures_text(differences: Sequence[ImageDifference], thresholds: Sequence[float]) -> str:
    """List the images on which the runs differ most."""
    measure = f"F1 at IoU 0.5, at score {thresholds[0]:.2f} in A and {thresholds[1]:.2f} in B (the best of each)"
    if not differences:
        return f"no image differs in {measure}"
    lines = [f"  {one.file_name}: {one.f1_a:.2f} -> {one.f1_b:.2f}" for one in differences]
    return "\n".join([f"images that differ most in {measure}", *lines])
