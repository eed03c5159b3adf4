"""Other values in the YAML files of a test's project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def change(file: str, **values: Any) -> None:
    """Set dotted keys of a YAML file in the current folder, e.g. loss__gamma=1.0."""
    content = yaml.safe_load(Path(file).read_text())
    for dotted, value in values.items():
        section, _, key = dotted.rpartition("__")
        (content[section] if section else content)[key] = value
    Path(file).write_text(yaml.safe_dump(content))
