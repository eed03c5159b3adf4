"""The losses of a validation split, from the forward pass that detects on it."""

from __future__ import annotations

import torch
from torch import Tensor

from retinanet.data.dataset import Batch, copy_to
from retinanet.losses.criterion import Criterion
from retinanet.network.predictions import Predictions
from retinanet.training.distributed import sum_over_workers
from retinanet.training.loading import assign_targets


class ValidationLoss:
    """Adds up the losses of batches; their quotient is the loss of the whole split as if it were one batch.

    Args:
        device: of the predictions.
    """

    def __init__(self, criterion: Criterion, device: torch.device) -> None:
        self.criterion = criterion
        self._sums = torch.zeros(3, dtype=torch.float64, device=device)  # loss_cls, loss_box, normaliser
        self._one = torch.ones((), dtype=torch.float64, device=device)

    def add(self, batch: Batch, predictions: Predictions) -> None:
        """Add a batch with ground truth, on the CPU, and its predictions."""
        assignment = assign_targets(self.criterion, batch).map(lambda values: copy_to(values, self._sums.device))
        losses = self.criterion(predictions, assignment, self._one)
        share = self.criterion.normaliser_share(assignment)
        self._sums += torch.stack([losses["loss_cls"].double(), losses["loss_box"].double(), share])

    def means(self) -> dict[str, float]:
        """val_loss, val_loss_cls and val_loss_box over the batches of all workers (a collective)."""
        summed: Tensor = sum_over_workers(self._sums)
        loss_cls, loss_box = (summed[:2] / summed[2].clamp(min=1)).tolist()
        return {"val_loss": loss_cls + loss_box, "val_loss_cls": loss_cls, "val_loss_box": loss_box}
