"""Parameters of the experiment: data, transforms, optim, train, evaluate."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.section import Count, CountOrZero, Finite, Fraction, NotNegative, Positive, Section
from pipeline.params.target import Target

# Formats that know where their images are if `images` is null.
FIND_IMAGES = ("voc", "yolo", "labelme", "cvat")

PerChannel = Annotated[list[Finite], Field(min_length=3, max_length=3)]


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
    names: Literal["keep", "refuse"]
    "Class names that differ by case, blanks, hyphens or underscores alone."


class Cut(Section):
    """How prepare cuts the splits that the data set does not bring from train."""

    val: Annotated[float, Field(ge=0, lt=1)]
    "Fraction of the images of train that become val, where data.val is null or auto finds no val."
    test: Annotated[float, Field(ge=0, lt=1)]
    "Fraction of the images of train that become test, where data.test is null or auto finds no test; 0: no test split."
    seed: int
    "Of the choice; the seed of the training does not move an image."
    group: Annotated[str, Field(min_length=1)] | None
    "Regular expression over image paths: images with the same match (its first group if it has one) stay together."
    duplicates: Annotated[float, Field(gt=0, lt=1)] | None
    "Correlation from which images are near-identical: they stay together, and are reported as leaks; null: only files."

    def check(self) -> list[str]:
        """Check that train keeps images, and that the regular expression is one."""
        complaints = []
        if self.val + self.test >= 1:
            complaints.append(f"val {self.val} + test {self.test} is {self.val + self.test:g}, which leaves no train")
        try:
            re.compile(self.group or "")
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
    split: Cut
    classes: Annotated[list[str], Field(min_length=1)] | None
    "null: all classes, in the order of the data set; a list selects and orders them."
    difficult: Literal["keep", "crowd", "drop"]
    "Objects that voc or labelme marks as difficult: ordinary boxes; evaluated as crowds, not trained on; or dropped."
    checks: Checks
    shapes: Shapes

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
        return complaints


class Tiles(Section):
    """How large pictures are cut into overlapping tiles."""

    size: Count | Annotated[list[Count], Field(min_length=2, max_length=2)]
    "Height and width of a tile, px in the picture; a number: of a square."
    overlap: Annotated[float, Field(ge=0, le=0.9)]
    "Fraction of its side that a tile shares with the next one, at least; the largest objects should fit into it."
    min_visible: Fraction
    "A tile keeps a box of which it shows at least this fraction; the tiles that show the most of a box always keep it."


class Transforms(Section):
    """Image transforms, from file to network input."""

    short_side: Count | Annotated[list[Count], Field(min_length=1)]
    "Px after resizing; a list: training draws one, evaluation takes the largest."
    long_side: Count
    "Px after resizing, at most."
    resize: Literal["pillow", "opencv", "torchvision"]
    "Whose bilinear rule: pillow smooths when it shrinks; opencv does not; torchvision does not, and rounds sides down."
    size_divisor: Count
    "A batch is padded to a multiple of this, in px."
    canvas: Annotated[list[Count], Field(min_length=2, max_length=2)] | None
    "Height and width to which every training batch is padded, px; images fit into it. null: the batch's largest image."
    mean: PerChannel
    "RGB, of images in [0, 1]."
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    "RGB, of images in [0, 1]."
    horizontal_flip: Fraction
    "Probability, in training only."
    vertical_flip: Fraction
    "Probability, in training only."
    random_crop: Annotated[float, Field(gt=0, le=1)]
    "Smallest fraction of each side that a crop before resizing keeps, drawn uniformly in training; 1: no crop."
    scale_jitter: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    "Range of a factor on the resized image, drawn uniformly in training; what exceeds its size at 1 is cropped."
    min_visible: Fraction
    "A box of which the crops leave less than this fraction of its area is dropped."
    scaled_decoding: bool
    "Decode a JPEG that is at least twice as large as the network sees it at a half, quarter or eighth of its size."
    tiles: Tiles | None
    "Cut pictures into tiles, in training and evaluation, before everything else; null: pictures are not cut."
    brightness: NotNegative
    "As in torchvision's ColorJitter, in training only."
    contrast: NotNegative
    "As in torchvision's ColorJitter, in training only."
    saturation: NotNegative
    "As in torchvision's ColorJitter, in training only."
    hue: Annotated[float, Field(ge=0, le=0.5)]
    "As in torchvision's ColorJitter, in training only."

    def check(self) -> list[str]:
        """Check that the range of the jitter is ascending."""
        low, high = self.scale_jitter
        return [] if low <= high else [f"scale_jitter is [{low}, {high}]; give the smaller factor first"]


class Optim(Section):
    """The optimiser and its schedule."""

    optimizer: Literal["sgd", "adamw"]
    "SGD with momentum, or AdamW."
    lr: Positive
    "For lr_batch_size images; scaled linearly with train.batch_size."
    lr_batch_size: Count
    "Batch size for which lr is given."
    momentum: Annotated[float, Field(ge=0, lt=1)]
    "Momentum of sgd."
    weight_decay: NotNegative
    "Applied to weights; not to biases and norms."
    schedule: Literal["steps", "cosine", "one_cycle", "constant"]
    "Learning rate schedule after the warm-up."
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)]
    "Fraction of all steps, linear."
    warmup_start: Annotated[float, Field(gt=0, le=1)]
    "Factor on lr at the first step."
    steps: list[Annotated[float, Field(gt=0, lt=1)]]
    "Fractions of all steps at which lr is multiplied by step_factor; schedule: steps."
    step_factor: Annotated[float, Field(gt=0, le=1)]
    "Factor on lr at each entry of steps."
    clip_grad_norm: Positive | None
    "Largest norm of the gradient; null: no clipping."
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    "Decay of the moving average of the weights, at step t at most (1 + t) / (10 + t); null: none."


class Train(Section):
    """Length of the training, and batch size."""

    batch_size: Count
    "Global batch size, split over the workers."
    epochs: Count
    "Epochs of the whole training."
    evaluate_every: Count
    "Epochs between evaluations; the last epoch is always evaluated."
    patience: Count | None
    "Evaluations without a better AP on val after which training ends early; null: it never does."
    repeat_threshold: Annotated[float, Field(gt=0, le=1)] | None
    "Images of a class in a smaller fraction f of the images are shown sqrt(repeat_threshold / f) times; null: once."
    on_nan: Literal["stop"] | Count
    "What to do at a loss that is not finite; a number: skip up to this many such steps in the whole training."


class Evaluate(Section):
    """Options of the evaluation and its sample images."""

    split: Literal["test", "val"]
    "Split that is evaluated."
    pictures: CountOrZero
    "Images on the sheet plots/detections.png."
    picture_score: Fraction
    "Minimum score of a detection that is drawn on it."
    working_point: Target
    "Score thresholds at which precision, recall and F1 are reported; chosen on val: f1, {precision: P} or {recall: R}."
