"""Our code on the nodes of a cluster.

Both packages go with the connection to the cluster, as Ray's py_modules: a few hundred kB, unpacked by each node when
the first worker starts there, and found before anything that the node has installed. So a node needs no checkout and
no shared folder, and the code that trains is the code that the run's digest names, even where an image holds an
older one. Not as working_dir: that would send the whole folder of the experiment, and become the workers' own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

HOUSE = Path(__file__).resolve().parents[2]
PACKAGES = ("retinanet", "pipeline")


def ship_code() -> dict[str, Any]:
    """The part of Ray's runtime_env that brings both packages to every process that works for this one."""
    return {"py_modules": [str(HOUSE / package) for package in PACKAGES]}
