"""Rules from the curves of a training to a parameter. docs/evaluate.md gives the reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pipeline.evaluate.proposals import Advice, Row
from pipeline.params import Params
from pipeline.params.editing import as_command

OVERFIT = 1.3  # loss of val over loss of training
RISING = 0.01  # AP gained in the last evaluation
UNFINISHED = 0.05  # the same, from which the errors are those of an unfinished training
FITTED = 1.1  # loss of val over loss of training, below which a longer training does not over-fit


def overfitted(history: Sequence[Row], params: Params) -> Iterator[Advice]:
    """The loss of val is far above that of training in the last epoch that has both."""
    rows = [row for row in history if row.get("val_loss") is not None and row.get("loss") is not None]
    if not rows:
        return
    loss, val = float(rows[-1]["loss"] or 0.0), float(rows[-1]["val_loss"] or 0.0)
    if not val >= OVERFIT * loss:  # nor where one is NaN
        return
    settings: list[dict[str, Any]] = []
    if params.transforms.scale_jitter == [1.0, 1.0]:
        settings.append({"transforms.scale_jitter": [0.5, 1.5], "transforms.random_crop": 0.7})
    if params.transforms.brightness == 0:
        settings.append({"transforms.brightness": 0.3, "transforms.contrast": 0.3, "transforms.saturation": 0.3})
    if params.optim.ema_decay is None:
        settings.append({"optim.ema_decay": 0.999})
    settings.append({"optim.weight_decay": 2 * params.optim.weight_decay or 0.0001})
    yield Advice(
        "over-fitting",
        min(0.2, 0.1 * (val / max(loss, 1e-9) - 1)),
        f"The loss of val ({val:.2f}) is far above that of training ({loss:.2f}): the detector knows its training "
        "pictures better than the world.",
        "Add pictures, which helps most, or vary them (transforms.scale_jitter, random_crop, brightness, contrast) and "
        "average the weights (optim.ema_decay).",
        [as_command(one) for one in settings[:3]],
    )


def still_rising(history: Sequence[Row], params: Params) -> Iterator[Advice]:
    """AP still rose in the last evaluation, and the loss of val is not above that of training."""
    rows = [row for row in history if row.get("AP") is not None]
    if len(rows) < 2:
        return
    scores = [float(row["AP"] or 0.0) for row in rows]
    rise = scores[-1] - max(scores[:-1])
    loss, val = rows[-1].get("loss"), rows[-1].get("val_loss")
    is_fitted = loss is not None and val is not None and val > FITTED * loss
    if rise < RISING or is_fitted:
        return
    yield Advice(
        "short training",
        1.0 if rise >= UNFINISHED else rise,
        f"AP on val still rose by {rise:.3f} in the last evaluation, and the detector does not over-fit.",
        "Train longer (train.epochs). The schedule of the learning rate stretches with it.",
        [as_command({"train.epochs": 2 * params.train.epochs})],
    )


CURVE_RULES: tuple[Callable[[Sequence[Row], Params], Iterator[Advice]], ...] = (overfitted, still_rising)
