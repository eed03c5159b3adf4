"""Stage prepare: the user's annotations -> data/prepared, with dropped records in the report."""

from __future__ import annotations

import json
import shlex
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cli.command import Command
from pipeline.data_page.figures import draw_overview
from pipeline.data_page.page import build_page
from pipeline.formats import READERS, Cut, Split, SplitFiles, format_report, merge, printable, read_splits, summarise
from pipeline.formats.looking import as_settings, look, resolve
from pipeline.formats.picture_cache import PictureCache
from pipeline.formats.root import Root
from pipeline.formats.shapes import draw_split
from pipeline.formats.split_record import EMPTY, add_record, build_record, describe_record
from pipeline.params import Params, load_params
from pipeline.params.data import Cut as CutParams
from pipeline.params.editing import as_yaml, edit_yaml
from pipeline.storage.outs import write_atomic

PREPARED = Path("data/prepared")
RECORD = Path("data/splits.json")
CACHE = Path("data/pictures.sqlite")
REPORT = Path("reports/prepare.json")
PAGE = Path("reports/prepare.html")
FIGURE = Path("plots/data.png")
# Maximum number of reasons printed; the report has all findings.
SHOWN = 12

DESCRIPTION = """\
Read the data set of params.yaml, check every image and every box, and write one COCO file per split.

reads    params.yaml (data, seed), the files under data.root, and data/splits.json
writes   data/prepared/{train,val,test}.json, and data/prepared/images/ where format is shapes
         data/splits.json: which images are in which split, where prepare cuts the splits
         reports/prepare.json, reports/prepare.html (a page to look at), plots/data.png
"""


def add_options(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--look", metavar="FOLDER", help="say what data set a folder holds and print section data for it; no stage runs"
    )
    parser.add_argument("--write", action="store_true", help="with --look: set the section in params.yaml")


def work(options: Namespace) -> None:
    """Run the stage in the folder of params.yaml."""
    if options.look is not None:
        return look_at(options.look, write=options.write)
    if options.write:
        raise ValueError("--write goes with --look FOLDER")
    params = load_params()
    unfinished = PREPARED.with_name("prepared.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)

    splits, notes, record = read_data(params, unfinished)
    for name, split in splits.items():
        write_json(unfinished / f"{name}.json", split.coco)
    report = summarise(splits, notes, group=params.data.split.group, duplicates=params.data.split.duplicates)

    replace_folder(PREPARED, unfinished)
    if record is not None or not RECORD.exists():
        write_json(RECORD, record or EMPTY, indent=1)
    write_json(REPORT, report, indent=2)
    coco = {name: split.coco for name, split in splits.items()}
    title = "drawn shapes" if params.data.format == "shapes" else params.data.root
    write_atomic(FIGURE, draw_overview(coco).savefig)
    page = build_page(coco, report, title=title, figure=FIGURE.read_bytes())
    write_atomic(PAGE, lambda path: path.write_text(page, encoding="utf-8"))
    print(format_report(report, shown=SHOWN, path=str(REPORT)))


def read_data(params: Params, folder: Path) -> tuple[dict[str, Split], list[str], dict[str, Any] | None]:
    """Return the splits of section `data`, notes, and the content of RECORD if splits are cut.

    `shapes` draws into `folder`, which becomes PREPARED.
    """
    data = params.data
    if data.format == "shapes":
        return draw_data(params, folder), [], None
    name, files, sentence = resolve(data)
    if sentence:
        print(sentence, flush=True)
    cut = plan_cut(data.split, files)
    parts = [*files, *(cut.fractions if cut is not None else ())]
    if "val" not in parts:
        raise ValueError(f"{data.root} has no split val; name its files in data.val, or set data.split.val above 0")
    if params.evaluate.split not in parts:
        raise ValueError(
            f"evaluate.split is {params.evaluate.split}, which {data.root} does not have; set it to val, or set "
            "data.split.test above 0"
        )
    splits, notes = read_splits(
        name,
        data.root,
        files,
        classes=data.classes,
        difficult=data.difficult,
        checks=data.checks,
        columns=data.columns,
        form=data.csv,
        cut=cut,
        cache=PictureCache(CACHE),
    )
    if cut is None:
        return splits, notes, None
    record = build_record(splits, cut)
    print(f"{RECORD}: {describe_record(record, cut)}", flush=True)
    return splits, notes, record


def draw_data(params: Params, folder: Path) -> dict[str, Split]:
    """Draw the splits of `data.format: shapes`."""
    data = params.data
    drawing = data.shapes.model_dump(exclude={"train", "val", "test"})
    drawing |= {"root": f"{PREPARED}/images", "classes": data.classes, "seed": params.seed}
    names = [name for name in ("train", "val", "test") if getattr(data, name) is not None]
    return {name: draw_split(folder / "images", name, getattr(data.shapes, name), **drawing) for name in names}


def plan_cut(split: CutParams, files: Mapping[str, SplitFiles]) -> Cut | None:
    """Return how train is cut into the splits that have no files; None if nothing is to be cut."""
    wanted = {"val": split.val, "test": split.test}
    fractions = {name: fraction for name, fraction in wanted.items() if name not in files and fraction > 0}
    if not fractions:
        return None
    cut = Cut(fractions, seed=split.seed, group=split.group, duplicates=split.duplicates)
    return add_record(RECORD, cut)


def look_at(folder: str, *, write: bool) -> None:
    """Print what a folder holds, and section `data` for it, which `write` sets in params.yaml."""
    root = Root(folder)
    if root.is_local and not root.exists():
        raise ValueError(f"there is no folder {folder}")
    resolved = look(root)
    print(resolved.sentence)
    for split, files in resolved.files.items():
        raw = merge([READERS[resolved.format].read(root, one, split=split) for one in files.each])
        names = [category.name for category in raw.categories if not category.names_data_set]
        shown = ", ".join(names[:SHOWN]) + (", .." if len(names) > SHOWN else "")
        print(printable(f"{split}: {len(raw.images)} images, {len(raw.boxes)} boxes, {len(names)} classes: {shown}"))
    if "val" not in resolved.files:
        print("val: none, so that prepare cuts it from train; see data.split")
    settings = as_settings(folder, resolved) | ({} if "test" in resolved.files else {"evaluate.split": "val"})
    if not write:
        print(f"\n{as_yaml(settings)}")
        return print(f"to set this in params.yaml: python -m pipeline.prepare --look {shlex.quote(folder)} --write")
    path = Path("params.yaml")
    text = edit_yaml(path.read_text(encoding="utf-8"), settings)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    print(f"{path}: {', '.join(settings)} set; run `dvc repro`")


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


COMMAND = Command("prepare", DESCRIPTION, work, add_options)
main = COMMAND.main

if __name__ == "__main__":
    COMMAND.run()
