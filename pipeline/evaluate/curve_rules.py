"""Rules from the curves of a training to a parameter. docs/evaluate.md gives the reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from pipeline.evaluate.proposals import Advice, Row
from pipeline.params import Params
from pipeline.params.editing import as_command

OVERFIT = 1.3  # loss of val over loss of training
APART = 0.15  # AP on training pictures over AP on val: over-fitted, whatever the losses say
ALIKE = 0.05  # the same, below which the losses do not count: AP is what a detector is judged by
RISING = 0.01  # AP gained in the last evaluation
UNFINISHED = 0.05  # the same, from which the errors are those of an unfinished training
FITTED = 1.1  # loss of val over loss of training, below which a longer training does not over-fit


class Pair(NamedTuple):
    """A figure on training pictures, and on val."""

    train: float
    val: float

    @property
    def apart(self) -> float:
        """How far training is above val."""
        return self.train - self.val


def overfitted(history: Sequence[Row], params: Params) -> Iterator[Advice]:
    """AP on training pictures is far above that on val; or the loss of val is far above that of training."""
    aps, losses = aps_of(history), losses_of(history)
    gains, signs = [], []
    if aps is not None:
        signs.append(f"AP {aps.train:.2f} on training pictures, {aps.val:.2f} on val")
        if aps.apart >= APART:
            gains.append(aps.apart / 2)
    if losses is not None and losses.val >= OVERFIT * losses.train and (aps is None or aps.apart >= ALIKE):
        signs.append(f"{'loss' if signs else 'Loss'} {losses.train:.2f} in training, {losses.val:.2f} on val")
        gains.append(0.1 * (losses.val / max(losses.train, 1e-9) - 1))
    if not gains:
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
        min(0.2, max(gains)),
        f"{'; '.join(signs)}: the detector fits its training pictures much better than others.",
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
    aps = aps_of(history)
    is_fitted |= aps is not None and aps.apart >= APART
    if rise < RISING or is_fitted:
        return
    yield Advice(
        "short training",
        1.0 if rise >= UNFINISHED else rise,
        f"AP on val still rose by {rise:.3f} in the last evaluation, and the detector does not over-fit.",
        "Train longer (train.epochs). The schedule of the learning rate stretches with it.",
        [as_command({"train.epochs": 2 * params.train.epochs})],
    )


def aps_of(history: Sequence[Row]) -> Pair | None:
    """AP of the stored detector, which is that of the best epoch; None where one is unknown."""
    train = history[-1].get("train_AP") if history else None
    known = [ap for row in history if (ap := row.get("AP")) is not None]
    return Pair(train, max(known)) if train is not None and known else None


def losses_of(history: Sequence[Row]) -> Pair | None:
    """Losses of the last epoch that has both; None without one."""
    known = [(row["loss"], row["val_loss"]) for row in history if None not in (row.get("loss"), row.get("val_loss"))]
    return Pair(*(float(loss or 0.0) for loss in known[-1])) if known else None


CURVE_RULES: tuple[Callable[[Sequence[Row], Params], Iterator[Advice]], ...] = (overfitted, still_rising)
