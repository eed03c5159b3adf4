"""Causes in the network and the loss: frozen random weights, norms, the prior, alpha's side."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pipeline.diagnose.evidence import Cause, Evidence

FAR = 10.0  # times the loss of the paper's prior
ONE_SIDED = 0.01  # alpha this near to 0 or 1 takes one side out of the loss


def frozen_random_weights(evidence: Evidence) -> Iterator[Cause]:
    """Stages that were frozen before they had learnt; params.yaml refuses this, a model from elsewhere may have it."""
    if evidence.trained is None:
        return
    model = evidence.trained.model
    if model.get("frozen_stages", 0) > 0 and model.get("weights") is None:
        yield Cause(
            "frozen random weights",
            0.97,
            f"The model was trained with model.frozen_stages {model['frozen_stages']} and without pretrained weights: "
            "random weights stayed as they were.",
            "Set model.frozen_stages to 0, or model.weights to imagenet.",
            {"model.frozen_stages": 0},
        )


def norm_of_one_image(evidence: Evidence) -> Iterator[Cause]:
    """Batch norm whose statistics are of one picture."""
    norm = evidence.params.model.norm
    if norm == "batch" and evidence.images_per_pass == 1:
        yield Cause(
            "norm of one image",
            0.92,
            "model.norm is batch, and a forward pass of a worker sees 1 image: statistics of one picture in training "
            "do not fit those that evaluation uses.",
            "Set model.norm to group, or give a worker more images (train.batch_size, workers and images_per_step in "
            "conf/).",
            {"model.norm": "group"},
        )


def wrong_prior(evidence: Evidence) -> Iterator[Cause]:
    """At the first step the class head is far from the prior of the paper, so background drowns everything else."""
    first = evidence.first_step
    if first is None or not (first.loss > FAR * first.expected or not math.isfinite(first.loss)):
        return
    yield Cause(
        "loss at the first step",
        0.85,
        f"Before any training an anchor costs {first.loss:.3g} as background; with the paper's prior of 0.01 it "
        f"would be -log 0.99 = {first.expected:.3g}. The first steps then learn nothing but background, or diverge.",
        "Set model.prior to 0.01; if it is, a norm or loaded weights (model.norm, model.weights) make the scores "
        "large.",
        {"model.prior": 0.01} if evidence.params.model.prior != 0.01 else {"model.norm": "group"},
    )


def one_sided_alpha(evidence: Evidence) -> Iterator[Cause]:
    """Alpha weighs foreground, 1 - alpha background."""
    alpha = evidence.params.loss.alpha
    if evidence.params.loss.class_loss != "sigmoid_focal" or not isinstance(alpha, float):
        return
    if ONE_SIDED < alpha < 1 - ONE_SIDED:
        return
    side = "background" if alpha > 0.5 else "foreground"
    yield Cause(
        "alpha takes one side",
        0.9,
        f"loss.alpha is {alpha:g}. It is the weight of foreground, and 1 - alpha that of background, so {side} is "
        "hardly learnt.",
        "Set loss.alpha to 0.25, or to null for no weights.",
        {"loss.alpha": 0.25},
    )
