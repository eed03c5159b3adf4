"""The parameters of an experiment: params.yaml, validated as a whole and frozen.

All sections are declared here and not in the rooms that use them, so that the first stage can check the whole file
without importing torch. DVC follows the values (`params:` in dvc.yaml), so this room is no dependency of a stage.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.params.data import Data
from pipeline.params.detector import Anchors, Loss, Matcher, Model, Postprocess
from pipeline.params.experiment import Evaluate, Optim, Train, Transforms
from pipeline.params.paths import project_root
from pipeline.params.reading import flatten, read_yaml, validate
from pipeline.params.section import Section
from pipeline.params.sweep import Sweep, check_sweep

__all__ = ["Params", "flatten", "load_params", "project_root"]


class Params(Section):
    """The whole of params.yaml, one field per section."""

    seed: int
    data: Data
    transforms: Transforms
    anchors: Anchors
    matcher: Matcher
    loss: Loss
    model: Model
    optim: Optim
    train: Train
    postprocess: Postprocess
    evaluate: Evaluate
    sweep: Sweep | None = None
    "Only `python -m pipeline.sweep` needs it."

    def check(self) -> list[str]:
        """Return complaints that concern several sections, one sentence each."""
        complaints = []
        is_cut = self.data.split.test > 0 and self.data.format != "shapes"
        if self.evaluate.split == "test" and self.data.test is None and not is_cut:
            complaints.append(
                "evaluate.split is test, but data.test is null; name a test split, set data.split.test above 0, or set "
                "evaluate.split: val"
            )
        if self.anchors.sizes is None and self.anchors.scales_per_octave is None:
            complaints.append("anchors.sizes and anchors.scales_per_octave are both null; give one of them")
        if self.data.classes is not None:
            complaints += self.loss.check_classes(len(self.data.classes), "data.classes")
        if self.sweep is not None:
            complaints += check_sweep(self.sweep, type(self), self.model_dump(exclude={"sweep"}))
        return complaints


def load_params(path: Path | None = None) -> Params:
    """Read and validate params.yaml.

    Raises:
        ValueError: naming the file and, for every complaint, the dotted path, what came and what was expected.
    """
    path = Path("params.yaml") if path is None else path
    return validate(Params, read_yaml(path), path)
