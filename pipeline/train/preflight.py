"""Preflight check of the inputs of a training, before torch and Ray are imported."""

from __future__ import annotations

from pipeline.params import Params
from pipeline.runs.inputs import ANCHORS, SPLITS
from pipeline.runs.weights import source_of
from pipeline.storage.outs import demand_file, read_json


def check_inputs(params: Params) -> None:
    """Raise ValueError for a missing input, or a list of alphas that does not match the classes of the data.

    Raises:
        ValueError: naming it.
    """
    for path in (*SPLITS.values(), ANCHORS):
        demand_file(path)
    source_of(params.model)
    if isinstance(params.loss.alpha, list):
        classes = read_json(SPLITS["train"])["categories"]
        complaints = params.loss.check_classes(len(classes), f"the {len(classes)} classes of the data")
        if complaints:
            raise ValueError(complaints[0])
