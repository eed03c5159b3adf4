"""The metrics on the screen."""

from __future__ import annotations

from retinanet.evaluation.coco_eval import CocoResult


def summary(result: CocoResult, split: str) -> str:
    """The metrics as text."""
    metrics = {name: "   -" if value is None else f"{value:.3f}" for name, value in result.metrics.items()}
    overall = "  ".join(f"{name} {metrics[name]}" for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"))
    classes = [name for name in metrics if name.startswith("per_class.") and name.endswith(".AP")]
    lines = [f"  {name.removeprefix('per_class.').removesuffix('.AP'):<20} AP {metrics[name]}" for name in classes]
    return "\n".join([f"{split}: {overall}", *lines])
