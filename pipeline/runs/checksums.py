"""Checksums of the files in a folder, stored beside them to detect damage. Needs no Ray Train."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.runs.identity import digest_file

CHECKSUMS = "sha256.json"


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of each file in a folder to sha256.json."""
    digests = {path.name: digest_file(path) for path in sorted(folder.iterdir())}
    (folder / CHECKSUMS).write_text(json.dumps(digests, indent=1))


def verify_checksums(folder: Path) -> None:
    """Compare the files of a folder with their checksums.

    Raises:
        ValueError: saying which file is missing or changed.
    """
    if not (folder / CHECKSUMS).exists():
        raise ValueError(f"it has no {CHECKSUMS}, so it was not written completely")
    for name, expected in json.loads((folder / CHECKSUMS).read_text()).items():
        if not (folder / name).exists():
            raise ValueError(f"{name} is missing")
        if digest_file(folder / name) != expected:
            raise ValueError(f"{name} does not match its checksum")
