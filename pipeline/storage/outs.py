"""Atomic writes of output files: under a temporary name first, then renamed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside the target (same suffix), then rename it, or on an error remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{path.name}")
    try:
        write(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: object) -> None:
    """Write an indented JSON file; NaN and infinity become null."""
    text = json.dumps(as_json(content), indent=1, allow_nan=False) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ValueError: naming the file, when it is missing or broken.
    """
    demand_file(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); remove it, and run the stage that writes it again") from None


def demand_file(path: Path) -> None:
    """Raise ValueError if an output of an earlier stage is missing."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; run the preceding stage (`dvc repro` does)")


def nest(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Nest dotted names of the form per_class.<name>.<metric>; class names may contain dots."""
    nested: dict[str, Any] = {}
    for name, value in metrics.items():
        group, _, rest = name.partition(".")
        if rest:
            member, _, metric = rest.rpartition(".")
            nested.setdefault(group, {}).setdefault(member, {})[metric] = value
        else:
            nested[name] = value
    return nested


def as_json(content: object) -> object:
    """Return nested content with NaN and infinity replaced by None."""
    if isinstance(content, Mapping):
        return {str(key): as_json(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [as_json(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
