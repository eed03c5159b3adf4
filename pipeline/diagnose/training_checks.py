"""Causes that the curves of the training and the detections show."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pipeline.diagnose.evidence import Cause, Evidence

RISEN = 1.5  # last loss over the lowest: diverged
UNMOVED = 0.9  # last loss over the first: not learnt
FEW_STEPS = 300
LEARNT, NOTHING = 0.3, 0.01  # AP
PAPER_THRESHOLD = 0.05  # of scores


def diverged(evidence: Evidence) -> Iterator[Cause]:
    """The loss rose, or is no number."""
    losses = losses_of(evidence)
    if len(losses) < 2:
        return
    last, lowest = losses[-1], min((loss for loss in losses if math.isfinite(loss)), default=math.nan)
    if math.isfinite(last) and last <= RISEN * lowest:
        return
    optim = evidence.params.optim
    settings = {"optim.lr": optim.lr / 10}
    if optim.clip_grad_norm is None:
        settings["optim.clip_grad_norm"] = 1.0
    yield Cause(
        "learning rate too high",
        0.88,
        f"The loss of training rose from {lowest:.3g} to {last:.3g}.",
        f"Lower optim.lr (now {optim.lr:g} for {optim.lr_batch_size} images), warm up longer (optim.warmup_fraction) "
        "or clip gradients (optim.clip_grad_norm).",
        settings,
    )


def unmoved(evidence: Evidence) -> Iterator[Cause]:
    """The loss hardly fell."""
    losses = losses_of(evidence)
    if len(losses) < 2 or not all(map(math.isfinite, losses)):
        return
    if not UNMOVED * losses[0] < losses[-1] <= RISEN * min(losses):
        return
    optim = evidence.params.optim
    yield Cause(
        "learning rate too low",
        0.7,
        f"The loss of training hardly fell: {losses[0]:.3g} in the first epoch, {losses[-1]:.3g} in the last.",
        f"Raise optim.lr (now {optim.lr:g} for {optim.lr_batch_size} images).",
        {"optim.lr": optim.lr * 10},
    )


def too_short(evidence: Evidence) -> Iterator[Cause]:
    """So few steps that nothing can be expected."""
    steps = max((int(row.get("step") or 0) for row in evidence.history), default=0)
    losses = losses_of(evidence)
    if not 0 < steps < FEW_STEPS or not all(map(math.isfinite, losses)):
        return
    factor = math.ceil(2 * FEW_STEPS / steps)
    yield Cause(
        "too few steps",
        0.65,
        f"The training took {steps} steps; from random weights a detector needs hundreds before AP moves, and the "
        "paper took 90,000.",
        "Train longer (train.epochs), or from pretrained weights (model.weights).",
        {"train.epochs": factor * evidence.params.train.epochs},
    )


def silent_scores(evidence: Evidence) -> Iterator[Cause]:
    """No score reaches the threshold of the post-processing."""
    trained, threshold = evidence.trained, evidence.params.postprocess.score_threshold
    if trained is None or trained.highest > threshold:
        return
    if threshold > PAPER_THRESHOLD and trained.highest > PAPER_THRESHOLD:
        yield Cause(
            "threshold above all scores",
            0.95,
            f"postprocess.score_threshold is {threshold:g}, and the highest score of {trained.highest:.2f} does not "
            "reach it.",
            "Set postprocess.score_threshold to 0.05: AP needs the weak detections. For use, there is the working "
            "point.",
            {"postprocess.score_threshold": PAPER_THRESHOLD},
        )
        return
    yield Cause(
        "everything is background",
        0.6,
        f"The highest score of all anchors is {trained.highest:.3f}, so nothing is detected: the class head has "
        "stayed near its prior.",
        "If the loss still falls, train longer (train.epochs); else weigh foreground more (loss.alpha).",
        {"train.epochs": 2 * evidence.params.train.epochs},
    )


def learnt_by_heart(evidence: Evidence) -> Iterator[Cause]:
    """Train is found, the evaluated split is not."""
    trained = evidence.trained
    if trained is None or trained.train_ap is None or trained.test_ap is None:
        return
    if trained.train_ap < LEARNT or trained.test_ap >= NOTHING:
        return
    yield Cause(
        "splits differ",
        0.8,
        f"On pictures of train AP is {trained.train_ap:.2f}, on {evidence.test} {trained.test_ap:.3f}: the detector "
        "has learnt, but something else than the split asks for.",
        f"Compare the pictures and labels of train and {evidence.test} in reports/prepare.html: other sizes, other "
        "class order, boxes in another format. With few pictures, augment (transforms.scale_jitter, random_crop).",
    )


def losses_of(evidence: Evidence) -> list[float]:
    """Training loss by epoch."""
    rows = (row.get("loss") for row in evidence.history)
    return [math.nan if loss is None else float(loss) for loss in rows]
