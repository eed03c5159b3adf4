"""Names of images: with a suffix, or without one where a format names images by number or id."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pipeline.formats.recognised import IMAGE_SUFFIXES, image_folder, image_names
from pipeline.formats.root import THREADS, Root, join


def find_images(root: Root, names: Sequence[str], *, named_by: str) -> list[str]:
    """Return the path of each image: the name if it has a suffix of images or is a file, else with a suffix added.

    Args:
        names: paths below the root, each once.
        named_by: the file that contains them.

    Returns:
        existing paths; where there is no such image, the name itself, with .jpg if it had no suffix of images.
    """
    bare = [name for name in names if not name.lower().endswith(IMAGE_SUFFIXES)]
    if root.can_list:
        files = _list_folders(root, {posixpath.dirname(name) for name in bare}, named_by=named_by)
        found = {name: _first(name, files.__contains__) for name in bare}
    else:
        has_file = partial(root.has_file, named_by=named_by)
        with ThreadPoolExecutor(THREADS) as pool:
            found = dict(zip(bare, pool.map(partial(_first, is_there=has_file), bare), strict=True))
    return [found.get(name, name) for name in names]


def _first(name: str, is_there: Callable[[str], bool]) -> str:
    return next((each for each in (name, *image_names(name)) if is_there(each)), f"{name}.jpg")


def guess_folder(paths: Sequence[str], name: str, *, beside: str) -> str | None:
    """Return the folder of an image named with or without suffix; see `image_folder`."""
    names = [name] if name.lower().endswith(IMAGE_SUFFIXES) else image_names(name)
    folders = (image_folder(paths, each, beside=beside) for each in names)
    return next((folder for folder in folders if folder is not None), None)


def _list_folders(root: Root, folders: set[str], *, named_by: str) -> set[str]:
    """Return the paths of all files directly in the folders."""
    return {
        join(folder, name)
        for folder in sorted(folders)
        for name, info in root.entries(folder, named_by=named_by)
        if info["type"] != "directory"
    }
