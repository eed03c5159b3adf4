"""The detections of a split as a gzipped COCO results file, as read by pycocotools, in px xywh.

Numbers are not rounded, so that the file gives the very AP that was reported.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.storage.outs import write_atomic

DETECTIONS = "detections.json.gz"
JUDGED = "judged"
"""Artifact folder of a run with <split>/detections.json.gz and the split itself, <split>/<split>.json."""


def write_results(path: Path, results: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of image_id, category_id, bbox and score; the same rows give the same bytes."""
    text = json.dumps([dict(result) for result in results], separators=(",", ":"), allow_nan=False) + "\n"

    def write(temporary: Path) -> None:
        # No name and no time in the gzip header: DVC compares bytes.
        with temporary.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
            packed.write(text.encode())

    write_atomic(path, write)


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read the rows of such a file.

    Raises:
        ValueError: naming the file, when it is missing or broken.
    """
    try:
        results: list[dict[str, Any]] = json.loads(gzip.decompress(path.read_bytes()))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run the evaluate stage (`dvc repro` does)") from None
    except (EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} is not a gzipped COCO results file ({error}); run the evaluate stage again") from None
    return results
