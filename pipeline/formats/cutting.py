"""Splits that a data set does not bring: cut from train, by groups of images; the groups of an earlier cut stay."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

from pipeline.formats.duplicates import Copies, search_copies
from pipeline.formats.grouping import group_names, label_images
from pipeline.formats.picture_cache import Picture
from pipeline.formats.records import RawImage
from pipeline.formats.splitting import IMAGES, TRAIN, Group, assign, count_holders
from pipeline.params.data import ByColumn, GroupBy

# Maximum number of classes in a note.
NAMED = 8


@dataclass(frozen=True)
class Cut:
    """How train is cut into splits."""

    fractions: Mapping[str, float]
    """of the images of train, for val and test where they are cut"""
    seed: int
    group: GroupBy = None
    """see `group_names`"""
    duplicates: float | None = None
    """correlation from which images are near-identical; None: only identical files stay together"""
    known: Mapping[str, str] = field(default_factory=dict)
    """the split of each image of an earlier cut, by its path; images and groups stay where they were"""
    known_columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """the column `group` of these images"""

    @property
    def parts(self) -> list[str]:
        """The names of all splits."""
        return [TRAIN, *self.fractions]

    @property
    def column(self) -> str | None:
        """The column that names the groups, if one does."""
        return self.group.column if isinstance(self.group, ByColumn) else None

    def names(self, path: str, columns: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the groups of an image, as `group_names`; without columns, those of the earlier cut."""
        return group_names(path, self.group, self.known_columns.get(path, {}) if columns is None else columns)


def choose_splits(
    images: Sequence[RawImage],
    pictures: Sequence[Picture],
    boxes: Sequence[Mapping[str, int]],
    cut: Cut,
    copies: Copies | None = None,
) -> tuple[list[str | None], list[str]]:
    """Choose the split of each image of train.

    Args:
        images, pictures, boxes: N images, with the number of valid boxes of each class. An image that cannot be read
            stays where it was, or in train.
        copies: near-identical pictures among these and others; None: they are searched, if `cut.duplicates` says so.

    Returns:
        split [N]; None for a new image whose group has images in several splits of the earlier cut.
        notes

    Raises:
        ValueError: when no image can be read, a split has no group, or `cut.group` names no group.
    """
    known = [cut.known.get(image.path) for image in images]
    splits = [
        None if picture.fault is None else TRAIN if split is None else split
        for split, picture in zip(known, pictures, strict=True)
    ]
    readable = [index for index, picture in enumerate(pictures) if picture.fault is None]
    if not readable:
        example = f", e.g. {images[0].path}: {pictures[0].fault}" if images else ""
        raise ValueError(f"none of the {len(images)} images of train can be read{example}; check data.train.images")
    unmatched = _check_groups([images[index] for index in readable], cut)
    if copies is None and cut.duplicates is not None:
        copies = search_copies({pictures[i].sha256: pictures[i].thumbnail for i in readable}, cut.duplicates)
    copy_of = {} if copies is None else copies.groups
    labels = label_images([_names(images[index], pictures[index].sha256, copy_of, cut) for index in readable])
    bundles = _bundle(dict(zip(readable, labels.tolist(), strict=True)), known, _splits_by_name(images, cut))
    groups = [_describe(members, split, images, boxes) for split, members in bundles]
    chosen = assign(groups, cut.fractions, seed=cut.seed)
    _check_parts(groups, chosen, cut)
    for split, (_, members) in zip(chosen, bundles, strict=True):
        for index in members:
            splits[index] = split
    return splits, [_summary(groups, cut), *unmatched, *_scarce(groups, cut)]


def _names(image: RawImage, digest: str, copy_of: Mapping[str, int], cut: Cut) -> list[tuple[str, object]]:
    """Return what an image may share with others of its group: the file, the picture, and the names of groups."""
    names = cut.names(image.path, image.columns)
    return [("file", digest), ("copy", copy_of.get(digest, digest)), *names.items()]


def _splits_by_name(images: Sequence[RawImage], cut: Cut) -> list[set[str]]:
    """Return the splits [N] of the earlier cut that have, or had, images of the groups that an image's path names."""
    splits: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for path, split in cut.known.items():
        for name in cut.names(path).items():
            splits[name].add(split)
    none: set[str] = set()
    return [none.union(*(splits[name] for name in cut.names(image.path, image.columns).items())) for image in images]


def _bundle(
    labels: Mapping[int, int], known: Sequence[str | None], by_name: Sequence[Set[str]]
) -> list[tuple[str | None, list[int]]]:
    """Return the groups of images with the split where they have to be, if any.

    A group that would have to be in several splits is one group for each split, without its new images.
    """
    members: defaultdict[int, list[int]] = defaultdict(list)
    for index, label in labels.items():
        members[label].append(index)
    bundles: list[tuple[str | None, list[int]]] = []
    for group in members.values():
        own = {split for index in group if (split := known[index]) is not None}
        splits = own.union(*(by_name[index] for index in group))
        if len(splits) < 2:
            bundles.append((next(iter(splits), None), group))
        else:
            bundles += [(split, [index for index in group if known[index] == split]) for split in sorted(own)]
    return bundles


def _describe(
    members: Sequence[int],
    split: str | None,
    images: Sequence[RawImage],
    boxes: Sequence[Mapping[str, int]],
) -> Group:
    counts: Counter[str] = Counter({IMAGES: len(members)})
    for index in members:
        counts.update(boxes[index])
    return Group(min(images[index].path for index in members), counts, split)


def _check_groups(images: Sequence[RawImage], cut: Cut) -> list[str]:
    """Return a note on images that are in no group of `cut.group`."""
    without = [image.path for image in images if "group" not in cut.names(image.path, image.columns)]
    if cut.group is None or not without:
        return []
    if len(without) == len(images):
        group = f"{cut.group}, which matches" if cut.column is None else f"column {cut.column}, which has a value for"
        raise ValueError(
            f"data.split.group is {group} none of the {len(images)} images of train, e.g. {without[0]}; correct it or "
            "set it to null"
        )
    return [f"data.split.group does not match {len(without)} of the {len(images)} images of train, e.g. {without[0]}"]


def _check_parts(groups: Sequence[Group], chosen: Sequence[str], cut: Cut) -> None:
    """Check that no split is empty."""
    empty = [part for part in cut.parts if part not in chosen]
    if not empty:
        return
    num_images = sum(group.counts[IMAGES] for group in groups)
    if len(groups) >= len(cut.parts):
        raise ValueError(f"data/splits.json leaves no image for {_listed(empty)}; delete it to cut train anew")
    raise ValueError(
        f"data.split cannot cut {_listed(list(cut.fractions))} from train, because its {num_images} images form only "
        f"{len(groups)} {'groups' if len(groups) != 1 else 'group'} that must stay together; name the files of "
        f"{_listed(list(cut.fractions))}, or change data.split.group or data.split.duplicates"
    )


def _summary(groups: Sequence[Group], cut: Cut) -> str:
    num_images = sum(group.counts[IMAGES] for group in groups)
    shares = [f"{name} ({100 * fraction:g} %)" for name, fraction in cut.fractions.items()]
    verb = "is" if len(shares) == 1 else "are"
    return f"{_listed(shares)} {verb} cut from train, whose {num_images} images form {len(groups)} groups (data.split)"


def _scarce(groups: Sequence[Group], cut: Cut) -> list[str]:
    """Return a note on classes that occur in fewer groups than there are splits."""
    holders = count_holders(groups)
    scarce = [f"{name} ({count})" for name, count in sorted(holders.items()) if name and count < len(cut.parts)]
    if not scarce:
        return []
    more = f" and {len(scarce) - NAMED} more classes" if len(scarce) > NAMED else ""
    return [
        f"fewer than {len(cut.parts)} groups of images have {', '.join(scarce[:NAMED])}{more}, so that not every split "
        "has these classes"
    ]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)
