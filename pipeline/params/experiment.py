"""Parameters of the experiment: transforms, optim, train, evaluate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.section import Count, CountOrZero, Finite, Fraction, NotNegative, Positive, Section
from pipeline.params.target import Target

PerChannel = Annotated[list[Finite], Field(min_length=3, max_length=3)]


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
    backbone_lr_factor: Positive
    "Factor on lr for the backbone; below 1 to fine-tune pretrained weights."
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
    resamples: CountOrZero
    "Bootstrap resamples of the images, for 95 % intervals of the figures; 0: no intervals."
    working_point: Target
    "Score thresholds at which precision, recall and F1 are reported; chosen on val: f1, {precision: P} or {recall: R}."
