"""A prepared split as a data set of a run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pipeline.tracking.run import Run
from pipeline.tracking.verbs import NoRun


def log_split(run: Run | NoRun, name: str, path: Path) -> None:
    """Tell a run which split it used: digest of the prepared file, where its pictures are, how much it holds.

    Args:
        name: train, val or test; also what the run used it for.
    """
    content = path.read_bytes()
    split = json.loads(content)
    profile = {key: len(split[key]) for key in ("images", "annotations", "categories")}
    digest = hashlib.sha256(content).hexdigest()
    run.log_dataset(name=name, digest=digest, source=split["info"]["root"], context=name, profile=profile)
