"""The configuration that names a trial's record, and the newest sweep of a storage.

The files themselves are those of pipeline.runs.sweep_folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Ray Tune's state of a sweep that an earlier version started holds SweepFolder, pickled by its name in this module.
from pipeline.runs.sweep_folder import SweepFolder, entries


def configure(settings: Mapping[str, Any], *, seed: int, number: int) -> dict[str, Any]:
    """Return the configuration of a trial: its parameters, seed, number of the setting, and key.

    The key identifies the trial in its sweep: 12 hexadecimal digits over its initial parameters and the seed.
    """
    content = json.dumps({**settings, "seed": seed}, sort_keys=True)
    return {**settings, "seed": seed, "number": number, "key": hashlib.sha256(content.encode()).hexdigest()[:12]}


def settings_of(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a configuration."""
    return {name: value for name, value in configuration.items() if name not in ("seed", "number", "key")}


def newest_sweep(storage: str) -> SweepFolder:
    """Return the newest sweep of a storage.

    Raises:
        ValueError: when there is none.
    """
    folders = [SweepFolder(url) for url in entries(f"{storage.rstrip('/')}/sweeps")]
    begun = {folder: plan["begun"] for folder in folders if (plan := folder.read_json("sweep.json")) is not None}
    if not begun:
        raise ValueError(f"there is no sweep in {storage}; `python -m pipeline.sweep run` starts one")
    return max(begun, key=begun.__getitem__)
