"""Ray runtime environment: our code on the nodes of a cluster.

Both packages are uploaded as Ray's py_modules: a few hundred kB, which each node unpacks when its first worker starts,
ahead of anything installed on the node. So a node needs no checkout and no shared folder, and the code that trains is
the code in the run's digest, even if an image holds an older version. A working_dir would upload the whole project and
become the workers' working directory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("retinanet", "pipeline")


def code_environment() -> dict[str, Any]:
    """Return the part of Ray's runtime_env that makes both packages importable in every worker."""
    return {"py_modules": [str(ROOT / package) for package in PACKAGES]}
