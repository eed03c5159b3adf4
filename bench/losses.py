"""Target assignment and both losses beside torchvision's RetinaNet: from the heads' maps to their gradients.

    python -m bench.losses --repeats 3
    python -m bench.losses --only assignment --threads 1

4 images of 800 x 1344 px, 80 classes, 9 anchors, torchvision's anchors, rules and L1 on both sides, so that labels,
losses and gradients are equal; that they are is checked before anything is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.ops import box_iou

from bench.ratios import Case, run_bench
from retinanet.anchors.grid import build_grid
from retinanet.losses.criterion import Criterion, ImageGroundTruth
from retinanet.network.predictions import Predictions

SIZE = (800, 1344)  # px
CLASSES = 80
NAMES = ("few boxes", "1000 boxes an image")
COUNTS = {NAMES[0]: (39, 16, 35, 23), NAMES[1]: (1000,) * 4}
GRID = build_grid(offset=0.0, rounded=True, strides_from_image=True)
LOGITS_BYTES = 4 * len(COUNTS[NAMES[0]]) * CLASSES * sum(GRID.anchors_per_level(SIZE))


def draw_truths(
    counts: Sequence[int], *, image_size: tuple[int, int] = SIZE, num_classes: int = CLASSES
) -> list[ImageGroundTruth]:
    """Boxes with sides of 10 to 400 px, as many small as large ones on a logarithmic scale."""
    generator, (height, width) = torch.Generator().manual_seed(0), image_size
    truths = []
    for count in counts:
        sides = torch.exp(torch.rand(count, 2, generator=generator) * 3.7 + 2.3)  # px
        sides = torch.minimum(sides, torch.tensor([width / 1.5, height / 1.5]))
        corners = torch.rand(count, 2, generator=generator) * (torch.tensor([width, height]) - sides)
        labels = torch.randint(0, num_classes, (count,), generator=generator)
        truths.append(ImageGroundTruth(torch.cat([corners, corners + sides], dim=1), labels))
    return truths


def draw_maps(
    num_images: int, *, image_size: tuple[int, int] = SIZE, num_classes: int = CLASSES, mean: float = -4.6
) -> Predictions:
    """What heads say early in a training: p around .01, some far above; leaves that want a gradient."""
    generator = torch.Generator().manual_seed(1)
    sizes, anchors = GRID.map_sizes(image_size), GRID.anchors_per_cell

    def draw(channels: int, mean: float, deviation: float) -> list[Tensor]:
        shapes = [(num_images, anchors * channels, *size) for size in sizes]
        maps = (torch.empty(shape).normal_(mean, deviation, generator=generator) for shape in shapes)
        return [level.requires_grad_() for level in maps]

    return Predictions(draw(num_classes, mean, 1.0), draw(4, 0.0, 0.5))


def clear(predictions: Predictions) -> None:
    """A training step begins without gradients."""
    for level in [*predictions.class_logits, *predictions.box_deltas]:
        level.grad = None


def our_step(
    predictions: Predictions, truths: Sequence[ImageGroundTruth], **options: Any
) -> Callable[[], tuple[Tensor, Tensor]]:
    """Assignment and losses of ours, forward and backward; by default with the rules of torchvision."""
    rules = {"low_quality": "anchor", "normaliser": "image", "box_loss": "l1"} | options
    _, channels, height, width = predictions.class_logits[0].shape
    criterion = Criterion(GRID, channels // GRID.anchors_per_cell, **rules)  # type: ignore[arg-type]
    image_size = (8 * height, 8 * width)

    def step() -> tuple[Tensor, Tensor]:
        clear(predictions)
        assignment = criterion.assign(truths, image_size)
        losses = criterion(predictions, assignment, criterion.normaliser_share(assignment))
        (losses["loss_cls"] + losses["loss_box"]).backward()
        return losses["loss_cls"].detach(), losses["loss_box"].detach()

    return step


class Peer:
    """torchvision's RetinaNet from its heads' convolutions on; its network is never run."""

    def __init__(self) -> None:
        backbone = torch.nn.Identity()
        backbone.out_channels = 8
        self.model = RetinaNet(backbone, CLASSES)

    def anchors(self, num_images: int) -> list[Tensor]:
        """Made anew at every step, as torchvision does."""
        features = [torch.empty(1, 1, *size) for size in GRID.map_sizes(SIZE)]
        images = ImageList(torch.empty(num_images, 3, 1, 1).expand(-1, -1, *SIZE), [SIZE] * num_images)
        anchors: list[Tensor] = self.model.anchor_generator(images, features)
        return anchors

    def assignment(self, truths: Sequence[ImageGroundTruth]) -> Callable[[], list[Tensor]]:
        """The first lines of RetinaNet.compute_loss."""

        def assign() -> list[Tensor]:
            return [
                self.model.proposal_matcher(box_iou(truth.boxes, anchors))
                for truth, anchors in zip(truths, self.anchors(len(truths)), strict=True)
            ]

        return assign

    def step(self, predictions: Predictions, truths: Sequence[ImageGroundTruth]) -> Callable[[], tuple[Tensor, Tensor]]:
        """What RetinaNetHead.forward does after its last convolutions, then RetinaNet.compute_loss, backward."""
        targets = [{"boxes": truth.boxes, "labels": truth.labels} for truth in truths]

        def step() -> tuple[Tensor, Tensor]:
            clear(predictions)
            outputs = {"cls_logits": flat(predictions.class_logits), "bbox_regression": flat(predictions.box_deltas, 4)}
            losses = self.model.compute_loss(targets, outputs, self.anchors(len(truths)))
            (losses["classification"] + losses["bbox_regression"]).backward()
            return losses["classification"].detach(), losses["bbox_regression"].detach()

        return step


def flat(maps: Sequence[Tensor], num_channels: int = CLASSES) -> Tensor:
    """[N, C*K, H, W] per level to [N, A, K], by the steps of torchvision's heads."""
    levels = []
    for level in maps:
        num_images, _, height, width = level.shape
        level = level.view(num_images, -1, num_channels, height, width).permute(0, 3, 4, 1, 2)
        levels.append(level.reshape(num_images, -1, num_channels))
    return torch.cat(levels, dim=1)


def our_assignment(truths: Sequence[ImageGroundTruth], low_quality: str = "anchor") -> Callable[[], Any]:
    """Assignment alone."""
    criterion = Criterion(GRID, CLASSES, low_quality=low_quality)
    return lambda: criterion.assign(truths, SIZE)


def cases() -> Iterator[Case]:
    """Assignment alone, then with the losses; first with few boxes, then with many."""
    for name in COUNTS:
        yield case(f"assignment, {name}", lambda name=name: assignments(name))
    for name in COUNTS:
        yield case(f"assignment and losses, {name}", lambda name=name: steps(name))


def case(what: str, make: Callable[[], tuple[Callable[[], Any], Callable[[], Any]]]) -> Case:
    """Made when it first runs, so that one that is not wanted costs nothing."""
    made = cache(make)
    return Case(what, lambda: made()[0](), {"torchvision": lambda: made()[1]()})


def assignments(name: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Ours and torchvision's, which agree."""
    truths, peer = draw_truths(COUNTS[name]), Peer()
    demand_equal_labels(truths, peer)
    return our_assignment(truths), peer.assignment(truths)


def steps(name: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Ours and torchvision's, which agree."""
    truths, predictions, peer = draw_truths(COUNTS[name]), draw_maps(len(COUNTS[name])), Peer()
    demand_equal_gradients(predictions, truths, peer)
    return our_step(predictions, truths), peer.step(predictions, truths)


def demand_equal_labels(truths: Sequence[ImageGroundTruth], peer: Peer) -> None:
    """Element by element, low-quality ties included."""
    found = our_assignment(truths)()
    for image, (truth, expected) in enumerate(zip(truths, peer.assignment(truths)(), strict=True)):
        labels = torch.full_like(expected, -1)
        labels[found.ignored.anchor[found.ignored.image == image]] = -2
        rows = found.foreground.image == image
        at = found.foreground.anchor[rows]
        assert torch.equal((expected >= 0).nonzero()[:, 0], at), "other foreground than torchvision"
        assert torch.equal(found.truth_boxes[rows], truth.boxes[expected[at]]), "other truths than torchvision"
        assert torch.equal(labels == -2, expected == -2), "other ignored anchors than torchvision"


def demand_equal_gradients(predictions: Predictions, truths: Sequence[ImageGroundTruth], peer: Peer) -> None:
    """To float32's rounding over sums of millions."""
    results = []
    for step in (our_step(predictions, truths), peer.step(predictions, truths)):
        losses = step()
        results.append((losses, [level.grad for level in predictions.class_logits + predictions.box_deltas]))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=0.0)
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-9)
    clear(predictions)


def peaks() -> dict[str, Callable[[], Callable[[], Any]]]:
    """Memory of one step, gradients of the maps included."""

    def prepare(name: str, *, ours: bool) -> Callable[[], Any]:
        torch.set_num_threads(1)
        predictions, truths = draw_maps(len(COUNTS[name])), draw_truths(COUNTS[name])
        return our_step(predictions, truths) if ours else Peer().step(predictions, truths)

    return {
        f"{who}, {name}": lambda name=name, who=who: prepare(name, ours=who == "ours")
        for name in COUNTS
        for who in ("ours", "torchvision")
    }


if __name__ == "__main__":
    run_bench(
        "Target assignment and losses", cases, peaks=peaks(), unit=("times the class logits (246 MiB)", LOGITS_BYTES)
    )
