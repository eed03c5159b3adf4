"""Convert a checkpoint, write the detector, and print its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.params.editing import as_yaml
from retinanet.inference.detector_file import save_detector
from retinanet.inference.imported import import_detector

OWN = ("box_limits",)
"""Keys of section model that only the detector's file holds."""


def run(path: Path, *, output: Path, classes: Path | None, style: str | None, norm_eps: float | None) -> None:
    """Import a file; arguments of the command."""
    names = None if classes is None else read_names(classes)
    imported = import_detector(path, class_names=names, style=style, norm_eps=norm_eps)
    save_detector(output, imported.state, imported.description)
    print("\n".join(imported.notes))
    print(f"wrote {output}; sections of params.yaml with the same settings:\n")
    print(as_yaml(settings_of(imported.description, imported.sections, output)), end="")


def settings_of(description: dict[str, Any], sections: dict[str, dict[str, Any]], output: Path) -> dict[str, Any]:
    """Keys of params.yaml, dotted, with which training continues from the file and evaluation equals the other's."""
    model = {key: value for key, value in description["model"].items() if key not in OWN}
    values = {**sections, "model": {**model, "weights": str(output)}}
    return {f"{name}.{key}": value for name, section in values.items() for key, value in section.items()}


def read_names(path: Path) -> list[str]:
    """Read class names, one a line.

    Raises:
        ValueError: when there is none, or one occurs twice.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--classes {path} cannot be read ({error}); expected a class name a line") from None
    names = [line for line in lines if line]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        found = f"{', '.join(twice[:3])} twice" if twice else "no name"
        raise ValueError(f"--classes {path} has {found}; expected each class name once, one a line")
    return names
