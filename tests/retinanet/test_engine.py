from __future__ import annotations

import io
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from retinanet.data.dataset import Batch, EvaluationBatches
from retinanet.data.splits import Split, load_split
from retinanet.evaluation.coco_eval import evaluate_detections
from retinanet.inference.postprocess import Postprocess
from retinanet.inference.predict import predict
from retinanet.network.model import build_model, recompute_activations
from retinanet.training.engine import train_epochs
from retinanet.training.optim import lr_factor
from retinanet.training.progress import LossNotFiniteError, TrainingProgress
from retinanet.training.state import TrainingState
from tests.small_world import SmallWorld
from tests.tiny_training import (
    CPU,
    GRID,
    MEAN,
    STD,
    TRANSFORMS,
    RecordingCriterion,
    build_state,
    made_up_batch,
    outcome,
    tiny_network,
    train,
    train_step,
)

SGD = {"optimizer": "sgd", "lr": 0.01}
ADAMW = {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.05}
SLOW_BACKBONE: dict[str, Any] = {**ADAMW, "backbone_lr_factor": 0.25}
ONE_CYCLE = {"schedule": "one_cycle", "warmup_fraction": 0.2, "warmup_start": 0.04}


@pytest.fixture
def split(small_world: SmallWorld) -> Split:
    return load_split(small_world.train, keep_bytes=10**6)


def bits(state: dict[str, Any]) -> dict[str, bytes]:
    return {key: value.numpy().tobytes() for key, value in state.items()}


# ---- accumulation ----


@pytest.mark.parametrize("normaliser", ["batch", "image", "batch_of_images"])
@pytest.mark.parametrize("images_per_step", [1, 2, 3])
def test_a_batch_in_parts_teaches_what_the_whole_batch_does(
    split: Split, normaliser: str, images_per_step: int
) -> None:
    whole, parts = (
        outcome(state, train(state, split, epochs=2))
        for state in (
            build_state(optim=SGD, loss={"normaliser": normaliser}, clip_grad_norm=1.0, images_per_step=number)
            for number in (None, images_per_step)
        )
    )
    assert_close(parts["step_losses"], whole["step_losses"], rtol=1e-6, atol=0)
    assert_close(parts["weights"], whole["weights"], rtol=1e-6, atol=1e-7)


def test_every_part_is_divided_by_the_foreground_of_the_whole_batch(generator: torch.Generator) -> None:
    batch = made_up_batch(4, [[8.0, 8.0, 40.0, 40.0]], generator)
    alone = build_state(loss={"low_quality": "none"})
    train_step(alone, batch._replace(**{field: getattr(batch, field)[:1] for field in batch._fields}))
    state = build_state(loss={"low_quality": "none"}, images_per_step=1)
    train_step(state, batch)
    assert isinstance(state.criterion, RecordingCriterion) and isinstance(alone.criterion, RecordingCriterion)
    assert alone.criterion.normalisers[0] > 0
    assert state.criterion.normalisers == [4 * alone.criterion.normalisers[0]] * 4


# ---- the same again ----


@pytest.mark.parametrize("optim", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_two_trainings_with_one_seed_agree_exactly(split: Split, optim: dict[str, Any]) -> None:
    first, second = (
        outcome(state, train(state, split, epochs=2))
        for state in (build_state(optim=optim, ema_decay=0.9, clip_grad_norm=1.0) for _ in range(2))
    )
    assert first["step_losses"] == second["step_losses"]
    assert bits(first["weights"]) == bits(second["weights"])


@pytest.mark.parametrize("optim", [SGD, ADAMW, SLOW_BACKBONE], ids=["sgd", "adamw", "slow backbone"])
@pytest.mark.parametrize("stop", [1, 3])
def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(split: Split, optim: dict[str, Any], stop: int) -> None:
    def fresh() -> TrainingState:
        return build_state(optim=optim, total_steps=8, ramp=ONE_CYCLE, ema_decay=0.8, clip_grad_norm=1.0)

    straight, stopped, resumed = fresh(), fresh(), fresh()
    reports = train(straight, split, epochs=4)
    first = train(stopped, split, epochs=stop)
    kept = io.BytesIO()
    torch.save(stopped.state_dict(), kept)
    kept.seek(0)
    resumed.load_state_dict(torch.load(kept, weights_only=True))
    second = train(resumed, split, epochs=4, first_epoch=stop)

    for expected, report in zip(reports, [*first, *second], strict=True):
        assert (report.epoch, report.step, report.lr) == (expected.epoch, expected.step, expected.lr)
        assert report.step_losses == expected.step_losses
    assert bits(resumed.network.state_dict()) == bits(straight.network.state_dict())
    assert bits(resumed.inference_network.state_dict()) == bits(straight.inference_network.state_dict())
    assert bits(resumed.inference_network.state_dict()) != bits(resumed.network.state_dict())


def test_a_finished_training_yields_nothing_and_reads_nothing(split: Split) -> None:
    def batches_of(epoch: int, first_step: int) -> Iterator[Batch]:
        raise AssertionError

    state = build_state()
    assert list(train_epochs(state, batches_of, progress=TrainingProgress(epoch=3), epochs=3)) == []
    assert list(train_epochs(state, batches_of, progress=TrainingProgress(epoch=5), epochs=3)) == []


# ---- what a report says ----


def test_reports_count_epochs_steps_and_images_and_mean_their_losses(split: Split) -> None:
    state = build_state(optim=SGD, total_steps=6, ramp=ONE_CYCLE)
    reports = train(state, split, epochs=3)
    assert [(report.epoch, report.step) for report in reports] == [(1, 2), (2, 4), (3, 6)]  # 9 images: 2 batches of 4
    for report in reports:
        assert_close(report.losses["loss"], sum(report.step_losses) / 2)
        assert_close(report.losses["loss"], report.losses["loss_cls"] + report.losses["loss_box"])
        assert_close(report.images_per_s, 8 / report.seconds)
        # of its last step, which is the one before `step`
        assert_close(report.lr, 0.01 * lr_factor(report.step - 1, 6, **ONE_CYCLE))


def test_the_average_is_what_is_judged(split: Split) -> None:
    plain, averaged = build_state(), build_state(ema_decay=0.5)
    assert plain.inference_network is plain.network
    train(averaged, split, epochs=1)
    assert averaged.inference_network is not averaged.network


# ---- the limits ----


def test_a_batch_without_any_box_trains(generator: torch.Generator) -> None:
    state = build_state()
    losses = [train_step(state, made_up_batch(2, [], generator)) for _ in range(3)]
    assert all(math.isfinite(loss) and loss > 0 for loss in torch.stack(losses)[:, 0].tolist())
    assert [loss[1].item() for loss in losses] == [0.0, 0.0, 0.0]
    assert all(parameter.grad is not None for parameter in state.network.parameters())
    assert all(bool(parameter.isfinite().all()) for parameter in state.network.parameters())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_its_step_and_images(generator: torch.Generator, value: float) -> None:
    state = build_state()
    batch = made_up_batch(2, [[8.0, 8.0, 40.0, 40.0]], generator)

    def batches_of(epoch: int, first_step: int) -> Iterator[Batch]:
        yield batch
        yield batch
        with torch.no_grad():
            state.network.box_head.output.bias.fill_(value)
        yield batch

    before = {key: tensor.clone() for key, tensor in state.network.state_dict().items()}
    with pytest.raises(LossNotFiniteError, match=r"at step 3: loss_cls \d+\.\d+, loss_box (nan|inf)$") as caught:
        next(train_epochs(state, batches_of, progress=TrainingProgress(), epochs=1))
    assert (caught.value.epoch, caught.value.step) == (0, 2)
    assert bits(state.network.state_dict()) != bits(before)  # of the two steps before


def test_thawed_stages_move_from_where_they_were_frozen(split: Split) -> None:
    """A second training with fewer frozen stages, from the weights of the first."""
    options: dict[str, Any] = {"norm": "group", "fpn_channels": 8, "head_channels": 8, "head_depth": 0}
    frozen = build_model(num_logits=3, backbone="resnet18", frozen_stages=5, **options)
    before = {key: value.clone() for key, value in frozen.state_dict().items()}
    train(build_state(frozen, optim=ADAMW), split, epochs=1, batch_size=9)
    kept = {key for key in before if torch.equal(frozen.state_dict()[key], before[key])}
    assert kept == {key for key in before if key.startswith("backbone.")}

    thawed = build_model(num_logits=3, backbone="resnet18", frozen_stages=1, **options)
    thawed.load_state_dict(frozen.state_dict())
    train(build_state(thawed, optim=SLOW_BACKBONE), split, epochs=1, batch_size=9)
    moved = {key for key in before if not torch.equal(thawed.state_dict()[key], frozen.state_dict()[key])}
    assert {key for key in before if key.endswith("weight")} - moved == {"backbone.conv1.weight", "backbone.bn1.weight"}


def test_frozen_stages_do_not_move(split: Split) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"norm": "batch", "fpn_channels": 8, "head_channels": 8, "head_depth": 0}
    network = build_model(num_logits=3, backbone="resnet18", frozen_stages=2, **options)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    train(build_state(network, optim=ADAMW), split, epochs=1, batch_size=9)
    frozen = ("backbone.conv1", "backbone.bn1", "backbone.layer1")
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert not {key for key in moved if key.startswith(frozen)}  # statistics included
    rest = {key for key in before if not key.startswith(frozen)}
    assert {key for key in rest if key.endswith((".weight", "running_mean"))} <= moved


def test_gradients_are_clipped_to_their_norm(generator: torch.Generator) -> None:
    state = build_state(optim={**SGD, "momentum": 0.0, "weight_decay": 0.0}, clip_grad_norm=0.01)
    before = torch.cat([parameter.detach().flatten().clone() for parameter in state.network.parameters()])
    train_step(state, made_up_batch(2, [[8.0, 8.0, 40.0, 40.0]], generator))
    after = torch.cat([parameter.detach().flatten() for parameter in state.network.parameters()])
    # a step of SGD is lr times the gradient: .01 * .01
    assert_close((after - before).norm().item(), 1e-4, rtol=1e-2, atol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_with_losses_in_float32(split: Split, precision: str) -> None:
    dtypes: list[torch.dtype] = []
    network = tiny_network()
    network.class_head.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    exact, half = build_state(optim=SGD), build_state(network, optim=SGD, precision=precision)
    expected, got = (outcome(state, train(state, split, epochs=1)) for state in (exact, half))
    assert set(dtypes) == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert_close(got["step_losses"], expected["step_losses"], rtol=0.02, atol=0)
    assert {value.dtype for value in got["weights"].values()} == {torch.float32}


def test_channels_last_weights_give_the_same_losses(split: Split) -> None:
    last = tiny_network().to(memory_format=torch.channels_last)
    plain, other = (outcome(state, train(state, split, epochs=1)) for state in (build_state(), build_state(last)))
    assert_close(other["step_losses"], plain["step_losses"], rtol=1e-5, atol=0)


# ---- detection ----


def detect(state: TrainingState, split: Split, **options: Any) -> dict[int, tuple[Any, Any, Any]]:
    batches = EvaluationBatches(split, TRANSFORMS, **options)
    found = predict(
        state.inference_network,
        Postprocess(GRID, 3),
        (batches[position] for position in range(len(batches))),
        mean=MEAN,
        std=STD,
        device=CPU,
    )
    return {image_id: (d.boxes.numpy(), d.scores.numpy(), d.labels.numpy()) for image_id, _, d in found}


def test_the_detector_learns_its_pictures_by_heart(split: Split, small_world: SmallWorld) -> None:
    optim = {"optimizer": "adamw", "lr": 0.01}
    state = build_state(optim=optim, total_steps=100, ramp=ONE_CYCLE, clip_grad_norm=1.0)
    reports = train(state, split, epochs=100, batch_size=8)
    assert reports[-1].losses["loss"] < 0.25 * reports[0].losses["loss"]
    # Pictures are resized to a short side of 64 and back: boxes in another frame would find nothing.
    metrics = evaluate_detections(small_world.content(), detect(state, split)).metrics
    assert metrics["AP50"] is not None and metrics["AP50"] > 0.9

    wide = Image.open(small_world.root / "pictures/1.png")  # a size that no training met, and no multiple of 32
    enlarged = wide.resize((wide.width * 3 + 1, wide.height * 3 + 1))
    enlarged.save(small_world.root / "pictures/1.png")
    content = small_world.content()
    content["images"][1] |= {"width": enlarged.width, "height": enlarged.height}
    before, after = detect(state, split)[13], detect(state, Split(content))[13]
    assert_close(Tensor(after[0][0]) / 3, Tensor(before[0][0]), rtol=0, atol=3.0)
    assert after[2][0] == before[2][0]


def test_predict_evaluates_without_a_graph_and_leaves_the_network_in_its_mode(split: Split) -> None:
    state = build_state()
    state.network.train()
    state.network.box_head.eval()
    modes = [module.training for module in state.network.modules()]
    seen: list[bool] = []
    state.network.pyramid.register_forward_hook(lambda module, *_: seen.append(module.training))
    batch = EvaluationBatches(split, TRANSFORMS)[0]
    post = Postprocess(GRID, 3, score_threshold=0.0)
    tiles = predict(state.network, post, [batch], mean=MEAN, std=STD, device=CPU)
    found = {image_id: detections for image_id, _, detections in tiles}
    assert seen == [False] and torch.is_grad_enabled()
    assert [module.training for module in state.network.modules()] == modes
    assert list(found) == batch.image_ids
    for image_id, (height, width) in zip(batch.image_ids, batch.original_sizes.tolist(), strict=True):
        boxes = found[image_id].boxes
        assert boxes.shape == (100, 4) and not boxes.requires_grad
        assert boxes.min() >= 0 and bool((boxes <= torch.tensor([width, height] * 2) + 1e-3).all())


def test_activations_that_are_computed_again_change_no_digit(split: Split) -> None:
    def state(recompute: bool) -> TrainingState:
        torch.manual_seed(0)
        options: dict[str, Any] = {"norm": "group", "fpn_channels": 8, "head_channels": 8, "head_depth": 1}
        network = build_model(num_logits=3, backbone="resnet18", **options)
        if recompute:
            recompute_activations(network)
        return build_state(network, optim=ADAMW, ema_decay=0.5)

    plain, again = (state(recompute) for recompute in (False, True))
    expected, got = (outcome(each, train(each, split, epochs=1)) for each in (plain, again))
    assert got["step_losses"] == expected["step_losses"]
    assert bits(got["weights"]) == bits(expected["weights"])
    assert bits(again.inference_network.state_dict()) == bits(plain.inference_network.state_dict())
