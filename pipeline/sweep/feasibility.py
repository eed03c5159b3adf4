"""Skip settings without a trial: invalid ones, and those whose anchors cover too little ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.anchor_stats.coverage import cover
from pipeline.anchor_stats.grid import anchor_grid
from pipeline.anchor_stats.in_force import anchors_in_force
from pipeline.anchor_stats.scale import at_training_scale
from pipeline.params import Params, flatten
from pipeline.params.sweep import Sweep
from pipeline.storage.outs import read_json
from pipeline.sweep.space import Settings, broken_constraint, format_settings, params_with
from retinanet.data.records import Record, Records

IMAGES = 100  # spread evenly over the training split; enough to notice that most objects are not covered


@dataclass
class FeasibilityCheck:
    """Returns why a setting is not worth a trial; called by the sampler in the driver.

    Attributes:
        params: the base, including the fixed values of all trials.
        train: data/prepared/train.json.
    """

    params: Params
    sweep: Sweep
    train: Path
    _covered: dict[str, float] = field(default_factory=dict)
    _records: list[Record] | None = None

    def __call__(self, settings: Settings) -> str | None:
        """Return the reason, None if the setting may be tried."""
        base = flatten(self.params.model_dump(exclude={"sweep"}))
        broken = broken_constraint(self.sweep.constraints, {**base, **settings})
        if broken is not None:
            return f"breaks {broken}"
        try:
            params = params_with(self.params, settings)
        except ValueError as error:
            return print_rejection(settings, str(error))
        share = self.covered(params)
        if share < self.sweep.min_covered:
            least = self.sweep.min_covered
            return print_rejection(
                settings,
                f"only {share:.0%} of the ground-truth boxes have a foreground anchor, "
                f"sweep.min_covered is {least:.0%}",
            )
        return None

    def covered(self, params: Params) -> float:
        """Return the share of ground truth with a foreground anchor at training scale."""
        key = repr((params.anchors, params.matcher, params.transforms))
        if key not in self._covered:
            self._covered[key] = share_covered(params, self.records())
        return self._covered[key]

    def records(self) -> list[Record]:
        """Return an even sample of the training images; the file (450 MB for COCO) is read once."""
        if self._records is None:
            found = Records(read_json(self.train))
            chosen = np.linspace(0, len(found) - 1, min(IMAGES, len(found))).round().astype(int).tolist()
            self._records = [found[i] for i in chosen]
        return self._records


def print_rejection(settings: Settings, reason: str) -> str:
    """Print the reason and return it; violated constraints are not printed."""
    print(f"not tried: {format_settings(settings)}: {reason}", flush=True)
    return reason


def share_covered(params: Params, records: Sequence[Record]) -> float:
    """Compute the coverage as stage anchor_stats does, with anchors fitted to these images in mode fitted.

    Returns:
        1 without ground truth.
    """
    scaled = list(at_training_scale(records, params.transforms))
    if not any(len(boxes) for _, boxes, _ in scaled):
        return 1.0
    owned = cover(scaled, anchor_grid(anchors_in_force(params, scaled)), params.matcher).owned
    return float((owned > 0).double().mean())
