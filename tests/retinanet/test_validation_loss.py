"""Laws of the validation loss: that of the whole split as one batch, whatever the batches."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from retinanet.data.dataset import Batch, EvaluationBatches
from retinanet.data.splits import load_split
from retinanet.inference.postprocess import Postprocess
from retinanet.inference.predict import predict
from retinanet.losses.criterion import Criterion
from retinanet.network.model import clear_padding, normalise_images
from retinanet.network.predictions import Predictions
from retinanet.training.loading import assign_targets
from retinanet.training.validation_loss import ValidationLoss
from tests.small_world import SmallWorld
from tests.tiny_training import CPU, GRID, MEAN, STD, TRANSFORMS, tiny_network


def batches_of(world: SmallWorld, batch_size: int) -> list[Batch]:
    batches = EvaluationBatches(load_split(world.val), TRANSFORMS, batch_size=batch_size)
    return [batches[i] for i in range(len(batches))]


def losses_on(batches: Sequence[Batch], criterion: Criterion) -> dict[str, float]:
    losses = ValidationLoss(criterion, CPU)
    network, postprocess = tiny_network(), Postprocess(GRID, 3)
    list(predict(network, postprocess, batches, mean=MEAN, std=STD, device=CPU, observe=losses.add))
    return losses.means()


@pytest.mark.parametrize("normaliser", ["batch", "batch_of_images", "image"])
def test_loss_is_that_of_the_split_as_one_batch(normaliser: str, small_world: SmallWorld) -> None:
    """All images padded to one size: padding adds background anchors, so other batches have other losses."""
    criterion = Criterion(GRID, 3, normaliser=normaliser)
    (whole,) = batches_of(small_world, 9)
    found = losses_on([whole], criterion)
    assignment = assign_targets(criterion, whole)
    with torch.no_grad():
        images = clear_padding(normalise_images(whole.images, MEAN, STD), whole.image_sizes.tolist())
        predictions: Predictions = tiny_network()(images)
        expected = criterion(predictions, assignment, criterion.normaliser_share(assignment))
    assert found["val_loss_cls"] == pytest.approx(expected["loss_cls"].item(), rel=1e-5)
    assert found["val_loss_box"] == pytest.approx(expected["loss_box"].item(), rel=1e-5)
    assert found["val_loss"] == found["val_loss_cls"] + found["val_loss_box"]
    assert found["val_loss_box"] > 0


def test_batches_add_up(small_world: SmallWorld) -> None:
    """In two orders, so that a batch that is counted twice or left out shows."""
    criterion, parts = Criterion(GRID, 3), batches_of(small_world, 2)
    first = losses_on(parts, criterion)
    assert losses_on(parts[::-1], criterion) == pytest.approx(first)
    assert losses_on(parts[1:], criterion)["val_loss"] != pytest.approx(first["val_loss"], rel=1e-3)


def test_images_without_boxes_have_a_class_loss_alone(small_world: SmallWorld) -> None:
    empty = [batch for batch in batches_of(small_world, 1) if not len(batch.labels)]
    assert len(empty) == 1
    found = losses_on(empty, Criterion(GRID, 3))
    assert found["val_loss_box"] == 0 and found["val_loss_cls"] > 0
