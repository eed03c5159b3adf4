"""Parameters of section data: where a data set is, how it is read, checked and cut into splits."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.section import Count, Fraction, NotNegative, Section, expecting

# Formats that know where their images are if `images` is null.
FIND_IMAGES = ("voc", "yolo", "labelme", "cvat")
# Formats whose annotation files have columns or fields of their own for each image.
HAVE_COLUMNS = ("auto", "coco", "csv")


class Split(Section):
    """Locations of one split, relative to data.root."""

    annotations: str | Annotated[list[str], Field(min_length=1)] | None
    "Relative to data.root, or a list. What it names depends on the format, see docs/formats.md."
    images: str | None
    "Folder of the images, relative to data.root; yolo: key in data.yaml; null, where allowed: as docs/formats.md says."


class Shapes(Section):
    """Options of `format: shapes`."""

    train: Count
    "Number of images."
    val: Count
    "Number of images."
    test: Count
    "Number of images."
    image_size: Annotated[int, Field(ge=32)]
    "Px, square."
    max_objects: Count
    "Per image."
    min_size: Annotated[int, Field(ge=4)]
    "Px, side of the smallest object."
    max_size: Count
    "Px, side of the largest object."
    empty_fraction: Fraction
    "Fraction of images without any object."
    noise: NotNegative
    "Standard deviation of the pixel noise, in grey levels."

    def check(self) -> list[str]:
        """Check that objects fit into the image."""
        if not self.min_size <= self.max_size <= self.image_size:
            return [f"min_size {self.min_size} <= max_size {self.max_size} <= image_size {self.image_size} must hold"]
        return []


BoxPolicy = Literal["keep", "drop", "drop_image", "refuse"]
ImagePolicy = Literal["keep", "drop_image", "refuse"]


class Checks(Section):
    """What becomes of findings: keep the record, drop the box or the whole image, or refuse the data set."""

    strict: bool
    "Refuse the data set for any finding, whatever the other keys say."
    invalid: Literal["drop", "drop_image", "refuse"]
    "Boxes without an area, outside their image, or not of four finite numbers; repeated records; unknown classes."
    outside: Literal["keep", "drop_image", "refuse"]
    "Boxes that extend beyond their image; kept ones are clipped."
    unreadable: Literal["drop", "refuse"]
    "Images that are missing or damaged."
    size: ImagePolicy
    "Images of another size than their annotation says."
    small: BoxPolicy
    "Boxes with a side under small_px."
    small_px: NotNegative
    "Px in the picture."
    duplicate: BoxPolicy
    "Second boxes of an object: of one class, with at least duplicate_iou."
    duplicate_iou: Annotated[float, Field(gt=0, le=1)]
    "IoU."
    whole_picture: BoxPolicy
    "Boxes that cover their whole picture."
    contradiction: ImagePolicy
    "Images of the same content as another one, with other boxes."
    pixel_format: ImagePolicy
    "Pictures that are converted to 8-bit RGB: CMYK, palette, 16 bits, transparency, animation."
    grey: ImagePolicy
    "Greyscale pictures of a split that has pictures in colour, too."
    orientation: ImagePolicy
    "Pictures that are turned or mirrored as their EXIF data say."
    columns: ImagePolicy
    "Images without a value in one of data.columns."
    names: Literal["keep", "refuse"]
    "Class names that differ by case, blanks, hyphens or underscores alone."


class Columns(Section):
    """What is known of each image beside its boxes, e.g. its patient, video, site or camera."""

    names: Annotated[list[str], Field(min_length=1)]
    "Columns of the table; of COCO JSON keys of `images`, a dot leads into an object: extra.name."
    table: str | Annotated[list[str], Field(min_length=1)] | None
    "CSV, Parquet or COCO JSON relative to data.root, or a list; null: the annotation files (coco, csv)."
    image: str | None
    "The column that names the image, by its path below data.root or the end of it; null: file_name or alike."

    @property
    def tables(self) -> list[str]:
        """The tables that the section names."""
        return [self.table] if isinstance(self.table, str) else self.table or []

    def check(self) -> list[str]:
        """Check that each column is named once."""
        return ["names has a column twice"] if len(set(self.names)) < len(self.names) else []


class ByColumn(Section):
    """Groups of images with one value in a column."""

    column: str
    "One of data.columns.names."


GroupBy = str | ByColumn | None
"""What names the group of an image: a regular expression over its path, or a column; None: nothing."""


class Table(Section):
    """How the tables of format csv are written; null: found in each table."""

    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None
    "Of cells, one character."
    quote: Annotated[str, Field(min_length=1, max_length=1)] | Literal["none"] | None
    "Around a cell that holds a delimiter, one character; none: quotes are ordinary characters; null: the double quote."
    decimal: Literal[".", ","] | None
    "Decimal mark of numbers."

    def check(self) -> list[str]:
        """Check that a character has one meaning."""
        if self.delimiter is not None and self.delimiter == self.quote:
            return [f"delimiter and quote are both {self.quote!r}"]
        return []


class Cut(Section):
    """How prepare cuts the splits that the data set does not bring from train."""

    val: Annotated[float, Field(ge=0, lt=1)]
    "Fraction of the images of train that become val, where data.val is null or auto finds no val."
    test: Annotated[float, Field(ge=0, lt=1)]
    "Fraction of the images of train that become test, where data.test is null or auto finds no test; 0: no test split."
    seed: int
    "Of the choice; the seed of the training does not move an image."
    group: Annotated[
        Annotated[str, Field(min_length=1)] | ByColumn | None,
        expecting("expected a regular expression, {column: NAME} or null"),
    ]
    "Images stay together that have one match of a regular expression over their paths, or one value in {column: NAME}."
    duplicates: Annotated[float, Field(gt=0, lt=1)] | None
    "Correlation from which images are near-identical: they stay together, and are reported as leaks; null: only files."

    def check(self) -> list[str]:
        """Check that train keeps images, and that the regular expression is one."""
        complaints = []
        if self.val + self.test >= 1:
            complaints.append(f"val {self.val} + test {self.test} is {self.val + self.test:g}, which leaves no train")
        try:
            re.compile(self.group if isinstance(self.group, str) else "")
        except re.error as error:
            complaints.append(f"group is {self.group!r}, which is no regular expression: {error}")
        return complaints


class Data(Section):
    """The data set."""

    format: Literal["auto", "shapes", "coco", "voc", "yolo", "labelme", "cvat", "csv", "kitti"]
    "auto finds format and files in root, whatever train, val and test say; shapes draws its own images."
    root: str
    "Folder or URL of images and annotation files; shapes ignores it."
    train: Split
    val: Split | None
    "null: cut from train, see split."
    test: Split | None
    "null: cut from train if split.test is above 0; otherwise there is none, and evaluate.split must be val."
    columns: Columns | None
    "null: nothing is known of an image but its boxes."
    split: Cut
    classes: Annotated[list[str], Field(min_length=1)] | None
    "null: all classes, in the order of the data set; a list selects and orders them."
    difficult: Literal["keep", "crowd", "drop"]
    "Objects that voc or labelme marks as difficult: ordinary boxes; evaluated as crowds, not trained on; or dropped."
    csv: Table | None
    "Of format csv; null: delimiter, quotes and decimal mark are found."
    checks: Checks
    shapes: Shapes

    @property
    def tables(self) -> list[str]:
        """The tables of columns beside the annotation files."""
        return [] if self.columns is None else self.columns.tables

    def check(self) -> list[str]:
        """Check that a data set names its files or how they are cut, and each class once."""
        complaints = []
        if self.val is None and self.format == "shapes":
            complaints.append("val must not be null with data.format shapes, which draws it")
        elif self.val is None and self.split.val == 0 and self.format != "auto":
            complaints.append("val is null and split.val is 0; name a val split, or give the fraction of train for it")
        for name in ("train", "val", "test"):
            split = getattr(self, name)
            if self.format in ("auto", "shapes") or split is None:
                continue
            keys = ["annotations"] if self.format in FIND_IMAGES else ["annotations", "images"]
            if None in [getattr(split, key) for key in keys]:
                needed = " and ".join(f"{name}.{key}" for key in keys)
                complaints.append(f"{needed} must be given with data.format {self.format}")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            complaints.append("classes names a class twice")
        if self.csv is not None and self.format != "csv":
            complaints.append(f"csv says how tables are written, but data.format is {self.format}; set csv to null")
        return [*complaints, *self._check_columns()]

    def _check_columns(self) -> list[str]:
        """Check that the columns can be read, and that the splits are grouped by one of them."""
        columns, group = self.columns, self.split.group
        if columns is not None and self.format == "shapes":
            return ["columns must be null with data.format shapes, whose images have none"]
        if columns is not None and columns.table is None and self.format not in HAVE_COLUMNS:
            return [f"columns.table is null, but format {self.format} has no columns of images; name a table"]
        names = [] if columns is None else columns.names
        if isinstance(group, ByColumn) and group.column not in names:
            known = f"columns.names has {', '.join(names)}" if names else "columns is null"
            return [f"split.group.column is {group.column}, but {known}; add it to columns.names"]
        return []
