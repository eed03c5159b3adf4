"""Annotations of COCO 2017's size through `prepare`, without opening pictures: seconds and memory.

    python -m bench.prepare [--images 118000] [--boxes 860000] [--write]

Each contender runs in a process of its own: `prepare` from the JSON file to prepared file and report, json alone
(the floor: read and write the same file), pycocotools' index of it and, where that package is installed, supervision's
reader, which writes nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench.ratios import header, keep, table

CLASSES = 80
SIZE = (640, 480)  # width, height, px


def main() -> None:
    """Print the table; --write keeps it in bench/RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    parser.add_argument("--write", action="store_true", help="keep the table in bench/RESULTS.md")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return run_child(*options.child)
    with tempfile.TemporaryDirectory(prefix="prepare") as folder:
        # In a process of its own: the peak of a child begins with what its parent holds.
        writing = multiprocessing.get_context("spawn").Process(
            target=write_annotations, args=(Path(folder), options.images, options.boxes)
        )
        writing.start()
        writing.join()
        rows = [measure(name, folder) for name in CONTENDERS]
    ours = rows[0][1]
    cells = [[name, f"{seconds:.1f}", f"{seconds / ours:.2f}", f"{mib:.0f}"] for name, seconds, mib in rows]
    text = f"{header()}\n\n{table(['contender', 'wall s', 'ratio', 'peak MiB'], cells)}"
    print(text)
    if options.write:
        keep("Annotations of COCO's size through prepare", text)


def write_annotations(folder: Path, num_images: int, num_boxes: int) -> None:
    """A COCO file with boxes of random classes, spread over random images."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, [SIZE[0] - 40, SIZE[1] - 40], (num_boxes, 2)).round(2).tolist()
    sides = rng.uniform(4, 40, (num_boxes, 2)).round(2).tolist()
    images = rng.integers(1, num_images + 1, num_boxes).tolist()
    labels = rng.integers(1, CLASSES + 1, num_boxes).tolist()
    content: dict[str, Any] = {
        "images": [
            {"id": number, "file_name": f"{number:012}.jpg", "width": SIZE[0], "height": SIZE[1]}
            for number in range(1, num_images + 1)
        ],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": [*xy, *wh], "area": wh[0] * wh[1], "iscrowd": 0}
            for n, (i, c, xy, wh) in enumerate(zip(images, labels, corners, sides, strict=True), start=1)
        ],
        "categories": [{"id": label, "name": f"class {label}"} for label in range(1, CLASSES + 1)],
    }
    (folder / "train.json").write_text(json.dumps(content))


def measure(name: str, folder: str) -> tuple[str, float, float]:
    """Name, seconds and peak of the resident memory in MiB of one contender."""
    command = [sys.executable, "-m", "bench.prepare", "--child", name, folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return name, seconds, peak


def run_child(name: str, folder: str) -> None:
    """Run one contender in this process."""
    run = CONTENDERS[name](Path(folder))
    begun = time.perf_counter()
    run()
    seconds = time.perf_counter() - begun
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def by_prepare(folder: Path) -> Callable[[], object]:
    """Everything that the stage does but opening the pictures."""
    from pipeline import formats
    from pipeline.formats.picture_cache import Picture
    from pipeline.prepare import write_json

    def opened(root: object, images: list[object], *, split: str, cache: object = None) -> list[Picture]:
        return [Picture(SIZE, f"{number:064x}") for number in range(len(images))]

    formats.inspect_pictures = opened

    def run() -> None:
        files = {"train": formats.SplitFiles("train.json", "images")}
        splits, notes = formats.read_splits("coco", str(folder), files)
        write_json(folder / "prepared.json", splits["train"].coco)
        write_json(folder / "report.json", formats.summarise(splits, notes), indent=2)

    return run


def by_json(folder: Path) -> Callable[[], object]:
    """The floor: read the file and write it."""
    return lambda: (folder / "copy.json").write_text(json.dumps(json.loads((folder / "train.json").read_bytes())))


def by_pycocotools(folder: Path) -> Callable[[], object]:
    """Its index; it checks nothing."""
    from pycocotools.coco import COCO

    return lambda: COCO(str(folder / "train.json"))


def by_supervision(folder: Path) -> Callable[[], object]:
    """Read into its own form."""
    from supervision import DetectionDataset

    return lambda: DetectionDataset.from_coco(str(folder / "images"), str(folder / "train.json"))


CONTENDERS: dict[str, Callable[[Path], Callable[[], object]]] = {
    "prepare": by_prepare,
    "json alone": by_json,
    "pycocotools' index": by_pycocotools,
}
if find_spec("supervision"):
    CONTENDERS["supervision's reader"] = by_supervision


if __name__ == "__main__":
    main()
