"""The training loop, epoch by epoch: no I/O, no tracking, no rank tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from retinanet.data.dataset import Batch, copy_to, split_batch
from retinanet.losses.criterion import Assignment, Criterion
from retinanet.network.model import clear_padding, clear_padding_by_mask, memory_format, normalise_images
from retinanet.network.precision import autocast, convolving_float32, float32_of
from retinanet.training.distributed import sum_gradients, sum_over_workers, synchronise_gradients, world_size
from retinanet.training.loading import AssignedBatch, assign_batch
from retinanet.training.progress import CheckpointRequest, EpochReport, StepLog, TrainingProgress
from retinanet.training.state import TrainingState


def train_epochs(
    state: TrainingState,
    batches_of: Callable[[int, int], Iterable[Batch | AssignedBatch]],
    *,
    progress: TrainingProgress,
    epochs: int,
    checkpoint_every: int | None = None,
    request: Callable[[], CheckpointRequest] = CheckpointRequest,
) -> Iterator[EpochReport | TrainingProgress]:
    """Train, and report after every epoch; within an epoch pause where a checkpoint is due.

    With torch.distributed every worker runs this loop; each step has one collective for the normaliser beside those
    of the gradients, with max_skipped one for the losses, each pause and each epoch one for the losses.

    Args:
        batches_of: this worker's share of an epoch (0-based), from a step of it (0-based) on; a batch that comes
            without targets gets them here.
        progress: where to start; it is updated. At or past `epochs` nothing is yielded.
        checkpoint_every: steps between two pauses, over all epochs; None: no such pauses.
        request: called at every step; all workers follow the request of any one.

    Yields:
        The report of a finished epoch, or the progress at a pause.

    Raises:
        LossNotFiniteError: naming the step, when a loss is not finite and state.max_skipped does not allow it.
    """
    while progress.epoch < epochs:
        batches = batches_of(progress.epoch, len(progress.losses))
        yield from train_one_epoch(state, batches, progress, checkpoint_every=checkpoint_every, request=request)
        yield progress.end_epoch(step=state.schedule.last_epoch)


def train_one_epoch(
    state: TrainingState,
    batches: Iterable[Batch | AssignedBatch],
    progress: TrainingProgress,
    *,
    checkpoint_every: int | None = None,
    request: Callable[[], CheckpointRequest] = CheckpointRequest,
) -> Iterator[TrainingProgress]:
    """Train on the batches of an epoch; yields at every pause. Arguments as of train_epochs."""
    state.model.train()
    log = StepLog(state, progress)
    for unassigned in batches:
        if log.is_checkpoint_due(checkpoint_every):
            log.flush()
            yield progress
            log = StepLog(state, progress)

        batch, assignments = with_targets(unassigned, state)
        micro_batches = list(split_batch(batch, state.images_per_step))
        # Known before the network runs, so the loss of every micro-batch is final.
        normaliser, requests = sum_normaliser(state.criterion, assignments, request(), state.device)

        state.optimizer.zero_grad(set_to_none=True)
        compute = compute_gradients if state.graph is None else compute_gradients_in_graph
        losses = compute(state, micro_batches, assignments, normaliser)
        log.add(losses, requests, num_images=len(batch.image_ids))

        if log.must_skip():
            skip_update(state)
            continue
        state.scaler.unscale_(state.optimizer)
        log.add_grad_norm(clip_gradients(state))
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.schedule.step()
        if state.ema is not None:
            state.ema.update_parameters(state.network)
        log.check_recent_losses()
    log.flush()


def compute_gradients(
    state: TrainingState, micro_batches: Sequence[Batch], assignments: Sequence[Assignment], normaliser: Tensor
) -> Tensor:
    """Forward and backward passes of a step; returns [2] loss_cls and loss_box of this worker."""
    losses = torch.zeros(2, device=state.device)
    for i, (micro_batch, assignment) in enumerate(zip(micro_batches, assignments, strict=True)):
        is_last = i == len(micro_batches) - 1
        with synchronise_gradients(state.model, is_last), convolving_float32(float32_of(state.precision)):
            micro_losses = compute_losses(state, micro_batch, assignment, normaliser)
            state.scaler.scale(micro_losses.sum()).backward()
        losses += micro_losses.detach()
    return losses / world_size()


def compute_gradients_in_graph(
    state: TrainingState, micro_batches: Sequence[Batch], assignments: Sequence[Assignment], normaliser: Tensor
) -> Tensor:
    """As compute_gradients, in the graph of the state; one collective sums the gradients afterwards."""
    assert state.graph is not None
    padded = state.graph.shapes.pad(assignments)
    inputs = [normaliser]
    for batch, assignment in zip(micro_batches, padded, strict=True):
        inputs += [batch.images, batch.image_sizes, *assignment.tensors()]

    def passes(copied: Sequence[Tensor]) -> Tensor:
        normaliser, *rest = copied
        losses, following = torch.zeros(2, device=state.device), iter(rest)
        for shapes in padded:
            images = normalise_images(next(following), state.mean, state.std)
            images = clear_padding_by_mask(images, next(following))
            assignment = shapes.map(lambda _: next(following))
            with convolving_float32(float32_of(state.precision)):
                micro_losses = losses_of(state, images, assignment, normaliser)
                state.scaler.scale(micro_losses.sum()).backward()
            losses += micro_losses.detach()
        return losses

    losses = state.graph(passes, inputs)
    sum_gradients(state.graph.parameters)
    return losses


def with_targets(batch: Batch | AssignedBatch, state: TrainingState) -> AssignedBatch:
    """The batch with the assignments of its micro-batches, made on the CPU, so that nothing waits for a GPU."""
    return batch if isinstance(batch, AssignedBatch) else assign_batch(batch, state.criterion, state.images_per_step)


def sum_normaliser(
    criterion: Criterion, assignments: Sequence[Assignment], request: CheckpointRequest, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The normaliser of the global batch, and [2] the number of workers per request, in one collective."""
    share = torch.stack([criterion.normaliser_share(assignment) for assignment in assignments]).sum()
    own = torch.tensor(request, dtype=share.dtype)
    summed = sum_over_workers(copy_to(torch.cat([share[None], own]), device))
    return summed[0], summed[1:]


def compute_losses(state: TrainingState, batch: Batch, assignment: Assignment, normaliser: Tensor) -> Tensor:
    """[2] loss_cls and loss_box of a micro-batch with its assignment, both on the CPU, times the number of workers.

    DistributedDataParallel averages gradients over the workers, but the losses of their shares add up.
    """
    images = normalise_images(copy_to(batch.images, state.device), state.mean, state.std)
    assignment = assignment.map(lambda values: copy_to(values, state.device))
    images = clear_padding(images, batch.image_sizes.tolist())
    return losses_of(state, images, assignment, normaliser, factor=world_size())


def losses_of(
    state: TrainingState, images: Tensor, assignment: Assignment, normaliser: Tensor, *, factor: float = 1.0
) -> Tensor:
    """[2] loss_cls and loss_box, times a factor, of normalised images and their assignment, all on the device."""
    images = images.contiguous(memory_format=memory_format(state.network))
    with autocast(state.device, state.precision):
        predictions = state.model(images)
    losses = state.criterion(predictions, assignment, normaliser, factor=factor)
    return torch.stack([losses["loss_cls"], losses["loss_box"]])


def clip_gradients(state: TrainingState) -> Tensor:
    """Clip the gradients in place to state.clip_grad_norm, if there is one.

    Returns:
        [] the 2-norm of all gradients as one vector, before clipping; the same in every worker, whose gradients are
        those of the global batch.
    """
    if state.clip_grad_norm is not None:
        return nn.utils.clip_grad_norm_(state.model.parameters(), state.clip_grad_norm)
    gradients = [parameter.grad for parameter in state.model.parameters() if parameter.grad is not None]
    return nn.utils.get_total_norm(gradients)


def skip_update(state: TrainingState) -> None:
    """Leave the weights as they are; the schedule counts batches, so it advances."""
    state.optimizer.zero_grad(set_to_none=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
        state.schedule.step()
