"""KITTI: a folder of images, and one of label files with a row per object, by the same names.

A row is type, truncated, occluded, alpha, left, top, right, bottom, seven numbers of the box in space, and in results a
score. Corners are taken as given, as in KITTI's own evaluation: width = right - left. A row DontCare is a region with
objects of any class that nobody labelled: it becomes a crowd of every class.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.formats.image_files import find_images, guess_folder
from pipeline.formats.recognised import IMAGE_SUFFIXES, Recognised, by_split
from pipeline.formats.records import (
    Box,
    Category,
    Finding,
    RawBox,
    RawImage,
    RawSplit,
    SplitFiles,
    box_text,
    repeated_images,
)
from pipeline.formats.root import Root, join
from pipeline.formats.text_files import LabelFile, notes_on_missing, parse_number, read_names, read_pages

DONT_CARE = "DontCare"
NUM_COLUMNS = (15, 16)
NAN = float("nan")
NO_BOX = (NAN, NAN, NAN, NAN)
# Characters of a type in a finding.
SHOWN = 40
# Label files of a folder of which the first with rows shows whether they are KITTI's.
NUM_LOOKED_AT = 5


class _Listed(NamedTuple):
    """Paths of the images of a split, each with its label file; `repeated` are further entries of a list."""

    pairs: list[tuple[str, str]]
    repeated: list[Finding]


def read_kitti(root: Root, files: SplitFiles, *, split: str) -> RawSplit:
    """Read a split; images and boxes get ids from 1, in the order of the list, or of the names of the images."""
    file = root.shown(files.annotations)
    listed = (_read_list if _is_list(files) else _list_folders)(root, files, split=split)
    if not listed.pairs:
        raise ValueError(f"data.{split}: there is no image in {root.shown(files.images)} and no label file in {file}")
    pages = read_pages(root, listed.pairs, named_by=file)
    boxes, dropped = _read_boxes(root, pages, split=split)
    num_regions = sum(box.of_all_classes for box in boxes)
    note = f"{num_regions} regions {DONT_CARE} are crowds of every class: ignored in evaluation, unused in training"
    return RawSplit(
        categories=[Category(None, name) for name in sorted({box.category for box in boxes} - {""})],
        images=[RawImage(number, page.image, None, root.shown(page.file)) for number, page in enumerate(pages, 1)],
        boxes=boxes,
        num_images=len(pages) + len(listed.repeated),
        num_boxes=len(boxes) + len(dropped),
        dropped=dropped + listed.repeated,
        notes=notes_on_missing(pages, split=split) + ([note] if num_regions else []),
    )


def labels_folder(files: SplitFiles) -> str:
    """Return the folder of the label files: `annotations`, or, where that is a list, `label_2` beside the images."""
    return join(posixpath.dirname(files.images.rstrip("/")), "label_2") if _is_list(files) else files.annotations


def follow_kitti(root: Root, files: SplitFiles, *, split: str) -> tuple[list[str], list[str]]:
    """Return the list of a split, if it has one, and the folders of images and label files."""
    return [files.annotations] if _is_list(files) else [], [files.images, labels_folder(files)]


def _is_list(files: SplitFiles) -> bool:
    return files.annotations.lower().endswith(".txt")


def _read_list(root: Root, files: SplitFiles, *, split: str) -> _Listed:
    """Return the images of a list of ids."""
    listed = read_names(root, files.annotations, key=f"data.{split}.annotations")
    ids, file = list(dict.fromkeys(listed)), root.shown(files.annotations)
    images = find_images(root, [join(files.images, name) for name in ids], named_by=file)
    labels = [join(labels_folder(files), f"{name}.txt") for name in ids]
    return _Listed(list(zip(images, labels, strict=True)), repeated_images(listed, file=file, split=split))


def _list_folders(root: Root, files: SplitFiles, *, split: str) -> _Listed:
    """Return all images of the folder, and those that are missing for a label file, by name."""
    if not root.can_list:
        raise ValueError(
            f"data.{split}.annotations is the folder {files.annotations!r}, but {root.protocol} cannot list folders; "
            "name a text file with one image id per line"
        )
    key = f"data.{split}"
    images = [name for name, _ in root.walk(files.images, named_by=key) if name.lower().endswith(IMAGE_SUFFIXES)]
    labels = [name for name, _ in root.walk(files.annotations, named_by=key) if name.endswith(".txt")]
    stems = {posixpath.splitext(name)[0] for name in images}
    missing = [f"{stem}.png" for name in labels if (stem := name.removesuffix(".txt")) not in stems]
    return _Listed(
        [
            (join(files.images, name), join(files.annotations, posixpath.splitext(name)[0] + ".txt"))
            for name in [*sorted(images), *sorted(missing)]
        ],
        [],
    )


def _read_boxes(root: Root, pages: list[LabelFile], *, split: str) -> tuple[list[RawBox], list[Finding]]:
    """Return all valid rows with ids from 1, and the others."""
    boxes: list[RawBox] = []
    dropped: list[Finding] = []
    for image_id, page in enumerate(pages, start=1):
        seen: set[tuple[str, Box]] = set()
        for number, fields in enumerate(page.rows or [], start=1):
            name, box, reason = _read_row(fields)
            if reason is None and (name, box) in seen:
                reason = "repeated row; the first is kept"
            seen |= {(name, box)} if reason is None else set()
            record = f"row {number}"
            if reason is not None:
                file = root.shown(page.file)
                dropped.append(Finding(split, file, page.image, record, name[:SHOWN], box_text(box), reason))
            elif name == DONT_CARE:
                record = f"row {number}, {DONT_CARE}"
                boxes.append(RawBox(len(boxes) + 1, image_id, "", box, record, iscrowd=1, of_all_classes=True))
            else:
                boxes.append(RawBox(len(boxes) + 1, image_id, name, box, record))
    return boxes, dropped


def _read_row(fields: list[str]) -> tuple[str, Box, str | None]:
    """Return type, box in px, and why the row is no object."""
    if len(fields) not in NUM_COLUMNS:
        return fields[0], NO_BOX, f"{len(fields)} columns; expected {NUM_COLUMNS[0]}, or {NUM_COLUMNS[1]} with a score"
    left, top, right, bottom = map(parse_number, fields[4:8])
    return fields[0], (left, top, right - left, bottom - top), None


def recognise_kitti(root: Root, paths: Sequence[str]) -> list[Recognised]:
    """Recognise folders of label files with KITTI's columns, and the lists of ids for one of them.

    Without lists, the paths of the folders name the splits, as in training/label_2; two folders of one split are two
    ways to read the data.
    """
    files = {folder: SplitFiles(folder, images) for folder, images in _label_folders(root, paths).items()}
    lists = [found for whole in files.values() if (found := _recognise_lists(root, paths, whole))]
    if lists:
        return lists
    groups = by_split(files)
    if any(len(folders) > 1 for folders in groups.values()):
        return [_recognised({"train": whole}, folder) for folder, whole in files.items()]
    splits = {split: files[folder] for split, (folder,) in groups.items()}
    return [_recognised(splits, " and ".join(files))] if "train" in splits else []


def _recognise_lists(root: Root, paths: Sequence[str], whole: SplitFiles) -> Recognised | None:
    lists = _find_lists(root, paths, whole.annotations)
    splits = {split: SplitFiles(path, whole.images) for split, path in lists.items()}
    if "train" not in splits or labels_folder(splits["train"]) != whole.annotations:
        return None
    return _recognised(splits, f"{', '.join(lists.values())} and {whole.annotations}")


def _recognised(splits: dict[str, SplitFiles], evidence: str) -> Recognised:
    return Recognised(splits, f"{evidence}, whose rows have KITTI's columns")


def _label_folders(root: Root, paths: Sequence[str]) -> dict[str, str]:
    """Return the folders with KITTI's label files, each with its folder of images."""
    texts: dict[str, list[str]] = {}
    for path in paths:
        if path.endswith(".txt"):
            texts.setdefault(posixpath.dirname(path), []).append(path)
    found = {}
    for folder, files in texts.items():
        label = next((path for path in files[:NUM_LOOKED_AT] if _has_kitti_rows(root, path)), None)
        stem = posixpath.splitext(posixpath.basename(label or ""))[0]
        images = guess_folder(paths, stem, beside=label) if label else None
        if images is not None:
            found[folder or "."] = images or "."
    return found


def _has_kitti_rows(root: Root, path: str) -> bool:
    lines = root.head(path, named_by="data.root").decode(errors="replace").splitlines()
    fields = next((fields for line in lines if (fields := line.split())), [])
    numbers = [parse_number(field) for field in fields[1:]]
    return len(fields) in NUM_COLUMNS and all(number == number for number in numbers)


def _find_lists(root: Root, paths: Sequence[str], folder: str) -> dict[str, str]:
    """Return the lists train.txt, val.txt and test.txt whose ids have label files in the folder.

    KITTI's own test list has ids of its folder testing, which are also ids of training: a list that shares an id with
    an earlier one is left out.
    """
    named = [
        (split, path)
        for split in ("train", "val", "test")
        for path in paths
        if posixpath.basename(path) == f"{split}.txt"
    ]
    known = set(paths)
    lists: dict[str, str] = {}
    used: set[str] = set()
    for split, path in named:
        ids = set(root.read(path, named_by="data.root").decode(errors="replace").split())
        is_here = bool(ids) and all(join(folder, f"{name}.txt") in known for name in ids)
        if is_here and split not in lists and not ids & used:
            lists[split] = path
            used |= ids
    return lists
