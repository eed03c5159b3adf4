"""data.yaml of Ultralytics and Roboflow: the class names, and where the images of a split are.

Paths are resolved as Ultralytics does, but never outside data.root: an entry is relative to `path`, which is relative
to data.yaml; an entry `../train/images` that is not there, as Roboflow writes it, is taken as `train/images`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.formats.recognised import Recognised
from pipeline.formats.records import SplitFiles
from pipeline.formats.root import MISSING, Root
from pipeline.params.reading import parse_plain_yaml

# A data.yaml with the 1203 classes of LVIS has 30 kB.
LARGEST_BYTES = 2**18
DEEPEST = 10
LARGEST_INDEX = 2**31


class YoloConfig(NamedTuple):
    """What data.yaml says of one split; all paths are relative to the root."""

    names: dict[int, str]
    """by class index, ascending"""
    base: str
    """the folder that `path` names, or that of data.yaml"""
    folders: list[str]
    lists: list[str]
    """text files with one image path per line"""
    notes: list[str]


def read_config(root: Root, files: SplitFiles, *, split: str) -> YoloConfig:
    """Read the part of data.yaml that concerns a split.

    Args:
        files: path of data.yaml, and the key of the split in it ("" for the split's own name).
    """
    key, file = f"data.{split}.annotations", root.shown(files.annotations)
    try:
        data = root.read(files.annotations, named_by=key)
    except MISSING:
        raise ValueError(f"{key}: there is no file {file}; check data.root and {key} in params.yaml") from None
    content = _parse(data, file=file)
    base, notes = _find_base(root, content.get("path"), home=posixpath.dirname(files.annotations), file=file)
    entries = _entries(content, files.images or split, split=split, file=file)
    places = [_resolve(root, base, entry, file=file) for entry in entries]
    lists = [place for place in places if _is_list(place)]
    folders = [place for place in places if not _is_list(place)]
    if folders and not root.can_list:
        raise ValueError(
            f"{file} names the folder {folders[0]!r}, but {root.protocol} cannot list folders; name a text file with "
            "one image path per line"
        )
    return YoloConfig(_read_names(content, file=file), base, folders, lists, notes)


def recognise_yolo(root: Root, paths: Sequence[str]) -> list[Recognised]:
    """Recognise every YAML file with names and with a key of a training split."""
    return [found for path in paths if path.lower().endswith((".yaml", ".yml")) for found in _recognise(root, path)]


def _recognise(root: Root, path: str) -> list[Recognised]:
    try:
        content = _parse(root.head(path, named_by="data.root", size=LARGEST_BYTES + 1), file=root.shown(path))
    except ValueError:
        return []  # a YAML file of something else
    keys = {"train": "train", "val": "val" if content.get("val") else "valid", "test": "test"}
    splits = {split: SplitFiles(path, key if key != split else "") for split, key in keys.items() if content.get(key)}
    is_known = bool(content.get("names")) and "train" in splits
    if is_known and "test" in splits and _is_missing(root, splits["test"], split="test"):
        del splits["test"]  # Roboflow and Ultralytics name it whether or not it is there
    return [Recognised(splits, f"{path}, which has names and train")] if is_known else []


def _is_missing(root: Root, files: SplitFiles, *, split: str) -> bool:
    """Return whether nothing is there of what data.yaml names for a split."""
    try:
        config = read_config(root, files, split=split)
    except ValueError:
        return False  # reading the split says why
    return not any(_exists(root, place, file=files.annotations) for place in config.folders + config.lists)


def _parse(data: bytes, *, file: str) -> dict[str, Any]:
    """Parse a short YAML text."""
    if len(data) > LARGEST_BYTES:
        raise ValueError(f"{file} has {len(data)} bytes; expected a data.yaml of at most {LARGEST_BYTES}")
    try:
        return parse_plain_yaml(data.decode("utf-8-sig"), source=file, deepest=DEEPEST)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error})") from None


def _read_names(content: dict[str, Any], *, file: str) -> dict[int, str]:
    """Return the class names by index; `names` is a list, or a map from index to name."""
    given = content.get("names")
    pairs = (
        list(enumerate(given)) if isinstance(given, list) else list(given.items()) if isinstance(given, dict) else []
    )
    if not pairs:
        raise ValueError(f"{file} has no class names; expected `names: [cat, dog]` or `names: {{0: cat, 1: dog}}`")
    names: dict[int, str] = {}
    for index, name in pairs:
        if type(index) is not int or not 0 <= index < LARGEST_INDEX:
            raise ValueError(f"{file}: names has a key that is not a class index; expected integers from 0")
        if not isinstance(name, str | int | float) or not str(name).strip():
            raise ValueError(f"{file}: names[{index}] is not a name; expected a string")
        names[index] = str(name).strip()
    if len(set(names.values())) < len(names):
        twice = next(name for name in names.values() if list(names.values()).count(name) > 1)
        raise ValueError(f"{file}: names has {twice!r} twice; give each class one index")
    count = content.get("nc")
    if count is not None and (type(count) is not int or count != len(names)):
        raise ValueError(
            f"{file}: nc does not agree with names, which has {len(names)} entries; correct one of the two"
        )
    return dict(sorted(names.items()))


def _entries(content: dict[str, Any], name: str, *, split: str, file: str) -> list[str]:
    """Return the folders and text files of a split, as written."""
    given = content.get(name)
    if given is None or given == []:
        known = [key for key in ("train", "val", "valid", "test") if content.get(key)]
        instead = " or set data.test: null" if split == "test" else ""
        raise ValueError(
            f"data.{split}.images: {file} has no key {name!r}, but {', '.join(known) or 'no split at all'}; "
            f"name one of its keys{instead}"
        )
    entries = given if isinstance(given, list) else [given]
    for entry in entries:
        if not isinstance(entry, str) or not entry.strip():
            raise ValueError(f"{file}: {name} is not a path or list of paths; expected a folder or a text file")
    return [entry.strip() for entry in entries]


def _find_base(root: Root, given: object, *, home: str, file: str) -> tuple[str, list[str]]:
    """Return the folder to which entries are relative; a `path` of another machine gives the folder of data.yaml."""
    if given is None or given == "":
        return home, []
    if not isinstance(given, str):
        raise ValueError(f"{file}: path is not a folder; expected a string")
    found = root.below(home, given)
    if found is not None and (not root.can_list or root.entries(found, named_by=file)):
        return found, []
    note = f"{file}: path {given!r} is no folder below data.root; images are looked up in the folder of data.yaml"
    return home, [note]


def _resolve(root: Root, base: str, entry: str, *, file: str) -> str:
    """Return the path of a folder or text file below the root."""
    found = root.below(base, entry)
    if found is not None and (not entry.startswith("../") or _exists(root, found, file=file)):
        return found
    stripped = root.below(base, entry.removeprefix("../")) if entry.startswith("../") else None
    if stripped is None:
        raise ValueError(
            f"{file} names {entry!r}, which is outside data.root; set data.root to a folder that holds data.yaml and "
            "the images, and write paths relative to data.yaml"
        )
    return stripped


def _exists(root: Root, path: str, *, file: str) -> bool:
    if _is_list(path) or not root.can_list:
        return root.has_file(path, named_by=file)
    return bool(root.entries(path, named_by=file))


def _is_list(path: str) -> bool:
    return path.lower().endswith(".txt")
