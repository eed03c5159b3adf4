"""A sealed folder: the digests of its files stand beside them, so that damage is seen. It needs no Ray Train."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.runs.identity import digest_file

DIGESTS = "sha256.json"


def seal(folder: Path) -> None:
    """Write down the digest of each file in a folder."""
    digests = {path.name: digest_file(path) for path in sorted(folder.iterdir())}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1))


def check_whole(folder: Path) -> None:
    """Compare a folder with its digests.

    Raises:
        ValueError: saying what is wrong.
    """
    if not (folder / DIGESTS).exists():
        raise ValueError(f"it has no {DIGESTS}, so it was not written to its end")
    for name, expected in json.loads((folder / DIGESTS).read_text()).items():
        if not (folder / name).exists():
            raise ValueError(f"{name} is missing")
        if digest_file(folder / name) != expected:
            raise ValueError(f"{name} is not what was written")
