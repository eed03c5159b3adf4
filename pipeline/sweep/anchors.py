"""The anchors of a trial: those of its parameters, or fitted once for all trials that fit to the same."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pipeline.anchor_stats.grid import anchor_grid
from pipeline.anchor_stats.in_force import anchors_in_force
from pipeline.anchor_stats.scale import at_training_scale
from pipeline.params import Params
from pipeline.runs.inputs import fetch
from pipeline.runs.sweep_folder import SweepFolder
from pipeline.storage.outs import read_json
from retinanet.data.records import Records


def trial_anchors(params: Params, folder: SweepFolder, *, train: str) -> dict[str, Any]:
    """The content that stage anchor_stats would write into anchors.json with these parameters.

    Fitted anchors are stored in the sweep's folder: a resumed trial continues with the same ones, on any machine.

    Args:
        train: path or URL of data/prepared/train.json.
    """
    if params.anchors.mode == "fixed":
        return anchor_grid(params.anchors).to_dict()
    name = f"anchors/{digest_fit(params)}.json"
    found: dict[str, Any] | None = folder.read_json(name)
    if found is None:
        scaled = list(at_training_scale(Records(read_json(fetch(train))), params.transforms))
        found = anchor_grid(anchors_in_force(params, scaled)).to_dict()
        folder.write_json(name, found)
    return found


def digest_fit(params: Params) -> str:
    """16 hexadecimal digits over all parameters that decide which anchors fit."""
    values = params.model_dump(include={"anchors": True, "matcher": {"foreground_iou"}, "transforms": True})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
