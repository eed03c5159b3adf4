"""Laws of a training that pauses, stops, resumes in the middle of an epoch, or meets a loss that is not finite."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
import torch

from retinanet.data.dataset import Batch
from retinanet.data.splits import Split, load_split
from retinanet.training.engine import skip_update, train_epochs
from retinanet.training.progress import CheckpointRequest, EpochReport, LossNotFiniteError, TrainingProgress
from retinanet.training.state import TrainingState
from tests.small_world import SmallWorld
from tests.tiny_training import batches_from, build_state

EPOCHS = 3
ONE_CYCLE = {"schedule": "one_cycle", "warmup_fraction": 0.2, "warmup_start": 0.04}


def fresh(**options: Any) -> TrainingState:
    optim = {"optimizer": "adamw", "lr": 0.01}
    return build_state(optim=optim, total_steps=12, ramp=ONE_CYCLE, ema_decay=0.8, **options)


def facts(report: EpochReport) -> tuple[Any, ...]:
    """All of a report that is not time."""
    norms = (report.grad_norm, report.grad_norm_max)
    return (report.epoch, report.step, report.losses, report.step_losses, report.skipped, report.lr, *norms)


def same_weights(one: TrainingState, other: TrainingState) -> bool:
    pairs = zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


def through_a_file(content: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.fixture
def split(small_world: SmallWorld) -> Split:
    return load_split(small_world.train, keep_bytes=10**6)


@pytest.fixture
def batches_of(split: Split) -> Callable[[int, int], Iterator[Batch]]:
    """9 images: 4 steps of 2 in an epoch."""
    return batches_from(split, batch_size=2)


def test_pauses_come_every_so_many_steps_over_all_epochs_and_never_at_an_epochs_end(batches_of: Any) -> None:
    state, progress = fresh(), TrainingProgress()
    pauses = [
        (progress.epoch, len(progress.losses))
        for news in train_epochs(state, batches_of, progress=progress, epochs=EPOCHS, checkpoint_every=3)
        if isinstance(news, TrainingProgress)
    ]
    assert pauses == [(0, 3), (1, 2), (2, 1)]  # steps 3, 6, 9; step 12 ends the last epoch


@pytest.mark.parametrize("killed_at", [1, 4, 6, 11])
def test_training_killed_after_any_step_ends_as_if_it_had_not_been(batches_of: Any, killed_at: int) -> None:
    straight = fresh()
    expected = [
        facts(report) for report in train_epochs(straight, batches_of, progress=TrainingProgress(), epochs=EPOCHS)
    ]  # type: ignore[arg-type]

    first, progress, told = fresh(), TrainingProgress(), []
    for news in train_epochs(first, batches_of, progress=progress, epochs=EPOCHS, checkpoint_every=1):
        if isinstance(news, EpochReport):
            told.append(facts(news))
        kept = through_a_file({"training_state": first.state_dict(), "progress": asdict(progress)})
        if first.schedule.last_epoch == killed_at:
            break
    second = fresh()
    second.load_state_dict(kept["training_state"])
    rest = train_epochs(second, batches_of, progress=TrainingProgress(**kept["progress"]), epochs=EPOCHS)
    told += [facts(news) for news in rest if isinstance(news, EpochReport)]
    assert told == expected
    assert same_weights(second, straight)


def test_whoever_asks_for_a_stop_gets_a_pause_before_the_next_step(batches_of: Any) -> None:
    asked = iter([CheckpointRequest(), CheckpointRequest(stop=True)])
    progress = TrainingProgress()
    news = next(train_epochs(fresh(), batches_of, progress=progress, epochs=1, request=lambda: next(asked)))
    assert news is progress
    assert (len(progress.losses), progress.stop) == (2, True)


def test_a_pause_that_is_asked_for_is_no_stop(batches_of: Any) -> None:
    asked = iter([CheckpointRequest(checkpoint=True), CheckpointRequest(), CheckpointRequest(), CheckpointRequest()])
    progress = TrainingProgress()
    news = list(train_epochs(fresh(), batches_of, progress=progress, epochs=1, request=lambda: next(asked)))
    assert [type(each) for each in news] == [TrainingProgress, EpochReport]
    assert not progress.stop


def test_stop_that_is_asked_for_in_an_epochs_last_step_is_known_at_its_report(batches_of: Any) -> None:
    asked = iter([CheckpointRequest(), CheckpointRequest(), CheckpointRequest(), CheckpointRequest(stop=True)])
    progress = TrainingProgress()
    news = next(train_epochs(fresh(), batches_of, progress=progress, epochs=2, request=lambda: next(asked)))
    assert isinstance(news, EpochReport)
    assert progress.stop


class Spoiled:
    """The batches of an epoch, some of which make the loss NaN."""

    def __init__(self, batches_of: Any, state: TrainingState, steps: set[int]) -> None:
        self.batches_of, self.state, self.steps = batches_of, state, steps

    def __call__(self, epoch: int, first_step: int) -> Iterator[Batch]:
        bias = self.state.network.box_head.output.bias
        for step, batch in enumerate(self.batches_of(epoch, first_step), start=first_step):
            good = bias.detach().clone()
            if step in self.steps:
                bias.data.fill_(math.nan)
                self.spoiled = good
            yield batch
            if step in self.steps:
                assert bool(bias.isnan().all()), "the step was not skipped"
                bias.data.copy_(good)


def test_step_whose_loss_is_not_finite_is_left_out_and_counted(batches_of: Any) -> None:
    state, progress = fresh(max_skipped=2), TrainingProgress()
    spoiled = Spoiled(batches_of, state, {1, 2})
    (report,) = train_epochs(state, spoiled, progress=progress, epochs=1)
    assert isinstance(report, EpochReport)
    assert (report.skipped, progress.skipped) == (2, 2)
    assert [math.isfinite(loss) for loss in report.step_losses] == [True, False, False, True]
    assert report.losses["loss"] == pytest.approx((report.step_losses[0] + report.step_losses[3]) / 2)
    assert report.step == 4  # the schedule counts batches
    assert all(bool(weight.isfinite().all()) for weight in state.network.state_dict().values())


def test_one_step_more_than_may_be_skipped_ends_the_training(batches_of: Any) -> None:
    state = fresh(max_skipped=1)
    with pytest.raises(LossNotFiniteError, match="at step 3: ") as caught:
        list(train_epochs(state, Spoiled(batches_of, state, {1, 2}), progress=TrainingProgress(), epochs=1))
    assert (caught.value.epoch, caught.value.step) == (0, 2)


def test_skipped_step_moves_the_schedule_only() -> None:
    state, untouched = fresh(), fresh()
    for parameter in state.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    skip_update(state)
    assert same_weights(state, untouched)
    assert state.schedule.last_epoch == 1
    assert all(parameter.grad is None for parameter in state.network.parameters())
