"""COCO results files of other detectors, checked against a prepared split.

A file is a JSON list, gzipped or not, of rows with image_id, category_id, bbox (x y w h in px) and score. The image may
be named by its file name, in image_id or file_name, and the class by its name, in category_id or category.
"""

from __future__ import annotations

import difflib
import gzip
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from retinanet.evaluation.coco_eval import ImageDetections

GZIP = b"\x1f\x8b"
EXPECTED = "a COCO results file: a JSON list of rows with image_id, category_id, bbox and score"


def read_given_results(path: Path, truth: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read rows of image_id, category_id, bbox and score, with the ids of the split.

    Raises:
        ValueError: naming the file, the row, what was found and what was expected.
    """
    rows = _read_rows(path)
    images, categories = _image_names(truth["images"]), _category_names(truth["categories"])
    results = []
    for number, row in enumerate(rows, start=1):
        try:
            results.append(_read_row(row, images, categories))
        except ValueError as error:
            raise ValueError(f"row {number} of {path}: {error}") from None
    return results


def as_detections(truth: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> dict[int, ImageDetections]:
    """Rows as arrays for every image of the split, in its order; boxes xyxy px, labels by the order of the classes."""
    labels = {category["id"]: label for label, category in enumerate(truth["categories"])}
    grouped: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in truth["images"]}
    for row in results:
        grouped[row["image_id"]].append(row)
    detections: dict[int, ImageDetections] = {}
    for image_id, own in grouped.items():
        boxes = np.array([row["bbox"] for row in own], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        detections[image_id] = (
            boxes.astype(np.float32),
            np.array([row["score"] for row in own], dtype=np.float32),
            np.array([labels[row["category_id"]] for row in own], dtype=np.int64),
        )
    return detections


def _read_rows(path: Path) -> list[Any]:
    try:
        content = path.read_bytes()
        rows = json.loads(gzip.decompress(content) if content.startswith(GZIP) else content)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; give {EXPECTED}") from None
    except (EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); give {EXPECTED}") from None
    if not isinstance(rows, list):
        kind = "a JSON object" if isinstance(rows, dict) else f"{type(rows).__name__}"
        raise ValueError(f"{path} holds {kind}; give {EXPECTED}")
    return rows


def _read_row(row: Any, images: Mapping[Any, int], categories: Mapping[Any, int]) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"it is {type(row).__name__}, not an object with image_id, category_id, bbox and score")
    image = _first(row, "image_id", "file_name")
    category = _first(row, "category_id", "category")
    return {
        "image_id": _look_up(image, images, "image"),
        "category_id": _look_up(category, categories, "category"),
        "bbox": _read_box(row.get("bbox")),
        "score": _read_score(row.get("score")),
    }


def _first(row: Mapping[str, Any], *keys: str) -> Any:
    for key in keys:
        if row.get(key) is not None:
            return row[key]
    raise ValueError(f"it has no {' or '.join(keys)}, only {', '.join(map(str, row)) or 'nothing'}")


def _look_up(value: Any, ids: Mapping[Any, int], kind: str) -> int:
    # True would be found as 1.
    if isinstance(value, int | str) and not isinstance(value, bool) and value in ids:
        return ids[value]
    names = [str(key) for key in ids]
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    known = f"the nearest is {near[0]}" if near else f"for example {names[0]}" if names else "there are none"
    raise ValueError(f"{kind} {value!r} is not in the split, which has {len(set(ids.values()))} ({known})")


def _read_box(box: Any) -> list[float]:
    if isinstance(box, list) and len(box) == 4 and all(_is_number(side) for side in box) and min(box[2:]) >= 0:
        return [float(side) for side in box]
    raise ValueError(f"bbox is {box!r}; expected [x, y, width, height] in px")


def _read_score(score: Any) -> float:
    if _is_number(score) and 0 <= score <= 1:
        return float(score)
    raise ValueError(f"score is {score!r}; expected a number from 0 to 1")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _image_names(images: Iterable[Mapping[str, Any]]) -> dict[Any, int]:
    """Ids by id, file name, and the last part of the file name where it is unique."""
    images = list(images)
    last = Counter(PurePosixPath(image["file_name"]).name for image in images)
    short = {name: image["id"] for image in images if last[name := PurePosixPath(image["file_name"]).name] == 1}
    return (
        short | {image["file_name"]: image["id"] for image in images} | {image["id"]: image["id"] for image in images}
    )


def _category_names(categories: Iterable[Mapping[str, Any]]) -> dict[Any, int]:
    categories = list(categories)
    by_name = {category["name"]: category["id"] for category in categories}
    return by_name | {category["id"]: category["id"] for category in categories}
