"""Stage prepare: the user's annotations -> data/prepared, with dropped records in the report."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from pathlib import Path

from pipeline.cli.command import Command
from pipeline.formats import Split, SplitFiles, format_report, read_splits, summarise
from pipeline.formats.shapes import draw_split
from pipeline.params import Params, load_params

PREPARED = Path("data/prepared")
REPORT = Path("reports/prepare.json")
# Maximum number of dropped records printed; the report has all.
SHOWN = 20

DESCRIPTION = """\
Read the data set of params.yaml, check every image and every box, and write one COCO file per split.

reads    params.yaml (data, seed) and the files under data.root
writes   data/prepared/{train,val,test}.json, and data/prepared/images/ where format is shapes
         reports/prepare.json
"""


def work(options: Namespace) -> None:
    """Run the stage in the folder of params.yaml."""
    params = load_params()
    unfinished = PREPARED.with_name("prepared.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)

    splits, notes = read_data(params, unfinished)
    for name, split in splits.items():
        write_json(unfinished / f"{name}.json", split.coco)
    report = summarise(splits, notes)

    replace_folder(PREPARED, unfinished)
    write_json(REPORT, report, indent=2)
    print(format_report(report, shown=SHOWN, path=str(REPORT)))


def read_data(params: Params, folder: Path) -> tuple[dict[str, Split], list[str]]:
    """Return the splits of section `data`, and notes; `shapes` draws into `folder`, which becomes PREPARED."""
    data = params.data
    sections = {name: section for name in ("train", "val", "test") if (section := getattr(data, name)) is not None}
    if data.format == "shapes":
        drawing = data.shapes.model_dump(exclude={"train", "val", "test"})
        drawing |= {"root": f"{PREPARED}/images", "classes": data.classes, "seed": params.seed}
        return {
            name: draw_split(folder / "images", name, getattr(data.shapes, name), **drawing) for name in sections
        }, []
    files = {name: SplitFiles(section.annotations or "", section.images or "") for name, section in sections.items()}
    return read_splits(data.format, data.root, files, classes=data.classes)


def write_json(path: Path, content: object, *, indent: int | None = None) -> None:
    """Write a file atomically; the same content gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    separators = (",", ":") if indent is None else None
    text = json.dumps(content, sort_keys=True, indent=indent, separators=separators, allow_nan=False)
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)


def replace_folder(path: Path, finished: Path) -> None:
    """Replace `path` by a finished folder; the old one is removed last."""
    old = path.with_name(f"{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    finished.rename(path)
    shutil.rmtree(old, ignore_errors=True)


COMMAND = Command("prepare", DESCRIPTION, work)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
