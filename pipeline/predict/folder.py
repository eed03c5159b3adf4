"""The folder of the results: one that predict has made, so that no file of the user's is overwritten."""

from __future__ import annotations

from pathlib import Path

from pipeline.storage.stores import complaint

MARK = ".predict"
"""An empty file in a folder of results: a later run may replace what is there, and detects on nothing of it."""

OLDER = {"coco.json", "results.json"}
"""What a version without the mark has written."""


def claim(folder: Path) -> None:
    """Make the folder of the results, or take that of an earlier run.

    Raises:
        ValueError: when it holds something else, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
        is_free = MARK in names or names >= OLDER or all(name.startswith(".") for name in names)
        if is_free:
            (folder / MARK).touch()
    except OSError as error:
        raise ValueError(f"--output {complaint(str(folder), error)}") from error
    if not is_free:
        raise ValueError(
            f"--output {folder} is not empty, and predict has not made it; give a new folder, so that no file of yours "
            "is overwritten"
        )
