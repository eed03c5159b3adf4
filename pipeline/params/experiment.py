"""Parameters of the experiment: data, transforms, optim, train, evaluate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.section import Count, CountOrZero, Finite, Fraction, NotNegative, Positive, Section

PerChannel = Annotated[list[Finite], Field(min_length=3, max_length=3)]


class Split(Section):
    """Where one split of the data set lies, relative to data.root."""

    annotations: str | None
    images: str | None


class Shapes(Section):
    """What `format: shapes` draws."""

    train: Count
    val: Count
    test: Count
    image_size: Annotated[int, Field(ge=32)]
    max_objects: Count
    min_size: Annotated[int, Field(ge=4)]
    max_size: Count
    empty_fraction: Fraction
    noise: NotNegative

    def check(self) -> list[str]:
        """Objects must fit into the picture."""
        if not self.min_size <= self.max_size <= self.image_size:
            return [f"min_size {self.min_size} <= max_size {self.max_size} <= image_size {self.image_size} must hold"]
        return []


class Data(Section):
    """The data set."""

    format: Literal["shapes", "coco", "voc"]
    root: str
    train: Split
    val: Split
    test: Split | None
    classes: Annotated[list[str], Field(min_length=1)] | None
    shapes: Shapes

    def check(self) -> list[str]:
        """A real data set names its files, and a class only once."""
        complaints = []
        for name in ("train", "val", "test"):
            split = getattr(self, name)
            if self.format != "shapes" and split is not None and None in (split.annotations, split.images):
                complaints.append(f"{name}.annotations and {name}.images must be given with data.format {self.format}")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            complaints.append("classes names a class twice")
        return complaints


class Transforms(Section):
    """From picture to network input."""

    short_side: Count | Annotated[list[Count], Field(min_length=1)]
    "Px after resizing; a list: training draws one, evaluation takes the largest."
    long_side: Count
    size_divisor: Count
    mean: PerChannel
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)]
    horizontal_flip: Fraction
    vertical_flip: Fraction
    scale_jitter: Annotated[list[Positive], Field(min_length=2, max_length=2)]
    brightness: NotNegative
    contrast: NotNegative
    saturation: NotNegative
    hue: Annotated[float, Field(ge=0, le=0.5)]

    def check(self) -> list[str]:
        """The range of the jitter runs upwards."""
        low, high = self.scale_jitter
        return [] if low <= high else [f"scale_jitter is [{low}, {high}]; give the smaller factor first"]


class Optim(Section):
    """The optimiser and its schedule."""

    optimizer: Literal["sgd", "adamw"]
    lr: Positive
    "For lr_batch_size images; scaled linearly with train.batch_size."
    lr_batch_size: Count
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NotNegative
    schedule: Literal["steps", "cosine", "one_cycle", "constant"]
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)]
    warmup_start: Annotated[float, Field(gt=0, le=1)]
    steps: list[Annotated[float, Field(gt=0, lt=1)]]
    step_factor: Annotated[float, Field(gt=0, le=1)]
    clip_grad_norm: Positive | None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None


class Train(Section):
    """How long, and how many at once."""

    batch_size: Count
    "Global: split over the workers."
    epochs: Count
    evaluate_every: Count
    on_nan: Literal["stop"] | Count
    "At a loss that is not finite; a number: so many such steps of the whole training are left out."


class Evaluate(Section):
    """What is judged, and what is shown."""

    split: Literal["test", "val"]
    pictures: CountOrZero
    picture_score: Fraction
