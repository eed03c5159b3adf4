"""Checksums of the files in a folder, stored beside them to detect damage. Needs no Ray Train."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.runs.identity import digest_file

DIGESTS = "sha256.json"


def seal(folder: Path) -> None:
    """Write the SHA-256 of each file in a folder to sha256.json."""
    digests = {path.name: digest_file(path) for path in sorted(folder.iterdir())}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1))


def check_whole(folder: Path) -> None:
    """Compare the files of a folder with their checksums.

    Raises:
        ValueError: saying which file is missing or changed.
    """
    if not (folder / DIGESTS).exists():
        raise ValueError(f"it has no {DIGESTS}, so it was not written to its end")
    for name, expected in json.loads((folder / DIGESTS).read_text()).items():
        if not (folder / name).exists():
            raise ValueError(f"{name} is missing")
        if digest_file(folder / name) != expected:
            raise ValueError(f"{name} is not what was written")
