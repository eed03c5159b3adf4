from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from retinanet.anchors.grid import build_grid
from retinanet.data.dataset import EvaluationBatches
from retinanet.data.splits import load_split
from retinanet.inference.detector import Detector, build_network, read_array
from retinanet.inference.detector_file import describe_detector, save_detector
from retinanet.inference.postprocess import Detections
from tests.small_world import SmallWorld

CATEGORIES = [{"id": 3, "name": "brick"}, {"id": 7, "name": "leaf"}, {"id": 8, "name": "pond"}]
TRANSFORMS = {"short_side": [32, 64], "long_side": 96, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2], "hue": 0.1}
MODEL = {
    "backbone": "resnet18",
    "weights": "imagenet",  # where they came from; a detector's file brings its own
    "norm": "group",
    "frozen_stages": 0,
    "fpn_channels": 8,
    "p6_from": "c5",
    "head_channels": 8,
    "head_depth": 1,
    "head_norm": "group",
    "prior": 0.01,
    "box_means": [0.0, 0.0, 0.0, 0.0],
    "box_stds": [0.1, 0.1, 0.2, 0.2],
}


def describe(class_loss: str = "sigmoid_focal") -> dict[str, Any]:
    return describe_detector(
        model=MODEL,
        loss={"class_loss": class_loss},
        transforms=TRANSFORMS,
        anchors=build_grid(base_scale=2.0).to_dict(),
        categories=CATEGORIES,
        run={"digest": "abc"},
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a detector that finds something everywhere: its class scores are near a half, and vary."""
    torch.manual_seed(0)
    network = build_network(describe())
    torch.nn.init.normal_(network.class_head.output.weight, std=0.3)
    torch.nn.init.zeros_(network.class_head.output.bias)
    file = tmp_path_factory.mktemp("models") / "model.pt"
    save_detector(file, network.state_dict(), describe())
    return file


@pytest.fixture(scope="module")
def detector(path: Path) -> Detector:
    return Detector.load(path)


@pytest.fixture
def pictures(small_world: SmallWorld) -> list[np.ndarray]:
    """Arrays [H, W, 3], as Pillow gives them: they cannot be written to."""
    return [np.asarray(Image.open(small_world.root / f"pictures/{i}.png")) for i in (0, 4, 5)]


def assert_equal(first: Detections, second: Detections) -> None:
    assert all(torch.equal(*fields) for fields in zip(first, second, strict=True))


def test_postprocess_in_the_description_is_the_default(detector: Detector) -> None:
    described = describe() | {"postprocess": {"max_detections": 7, "min_size": None}}
    described["model"] = MODEL | {"box_limits": "both"}
    postprocess = Detector(detector.model, described).postprocess
    assert (postprocess.max_detections, postprocess.min_size, postprocess.nms_iou) == (7, None, 0.5)
    # dw = -9 is limited to log(16 / 1000): a side of 1000 px becomes one of 16 px
    boxes = postprocess.decode(torch.tensor([0.0, 0.0, -45.0, 0.0]), torch.tensor([0.0, 0.0, 1000.0, 1000.0]))
    assert_close(boxes, torch.tensor([492.0, 0.0, 508.0, 1000.0]))
    limits = torch.tensor([0.0, 0.0, -45.0, 45.0]), torch.tensor([0.0, 0.0, 1000.0, 1.0])
    free = Detector(detector.model, described | {"model": MODEL | {"box_limits": "none"}}).postprocess.decode(*limits)
    assert_close(free[2] - free[0], torch.tensor(1000 * math.exp(-9)), rtol=0.01, atol=0)
    assert_close(free[3] - free[1], torch.tensor(math.exp(9.0)))


def test_a_detector_is_what_its_file_says(detector: Detector, path: Path) -> None:
    saved = torch.load(path, weights_only=True)["weights"]
    own = detector.model.state_dict()
    assert own.keys() == saved.keys() and all(torch.equal(own[key], saved[key]) for key in saved)
    assert detector.class_names == ["brick", "leaf", "pond"]
    assert detector.transforms.for_evaluation.short_side == 64
    assert detector.description == describe()
    assert detector.postprocess.decode.keywords["stds"] == [0.1, 0.1, 0.2, 0.2]
    assert not detector.model.training


def test_loading_twice_gives_the_same_detections(path: Path, pictures: list[np.ndarray]) -> None:
    first, second = (Detector.load(path)(pictures[:1])[0] for _ in range(2))
    assert_equal(first, second)


def test_detections_lie_in_the_pictures_own_frame(detector: Detector) -> None:
    # 200 x 300 px are shown to the network as 64 x 96: a box may reach 300, far outside the network's frame.
    (found,) = detector([np.full((200, 300, 3), 90, dtype=np.uint8)])
    assert len(found.scores) > 0 and found.boxes.dtype == torch.float32
    assert found.boxes.min() >= 0 and bool((found.boxes <= torch.tensor([300, 200] * 2) + 1e-3).all())
    assert found.boxes[:, 2].max() > 200 and found.boxes[:, 3].max() > 150


def test_a_pictures_detections_do_not_depend_on_its_company(detector: Detector, pictures: list[np.ndarray]) -> None:
    together = detector(pictures)
    for picture, found in zip(pictures, together, strict=True):
        assert_equal(detector([picture])[0], found)


@pytest.mark.parametrize("images_per_pass", [1, 3, 8])
def test_pictures_detected_together_are_those_detected_alone(
    detector: Detector, pictures: list[np.ndarray], images_per_pass: int
) -> None:
    prepared = [detector.prepare(read_array(picture)) for picture in pictures]
    together = detector.detect(prepared, images_per_pass=images_per_pass)
    for found, expected in zip(together, detector(pictures), strict=True):
        assert len(found.scores) == len(expected.scores) > 20
        # Equal scores may change places, and the last of them with those that were cut off.
        last = float(expected.scores[-1]) + 1e-5
        for box, score, label in zip(*expected, strict=True):
            near = (found.labels == label) & ((found.boxes - box).abs().amax(1) < 1e-3)
            assert score <= last or (found.scores[near] - score).abs().min() < 1e-5
    assert detector.detect([]) == []


def test_only_images_of_one_padded_size_share_a_forward_pass(
    detector: Detector, pictures: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = [detector.prepare(read_array(picture)) for picture in pictures]
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr(detector.model, "forward", lambda images: shapes.append(tuple(images.shape)) or 1 / 0)
    sizes = [batch.padded_size for (batch,) in prepared]
    for size in sorted(set(sizes)):
        with pytest.raises(ZeroDivisionError):
            detector.detect([batches for batches, own in zip(prepared, sizes, strict=True) if own >= size])
    # The smallest size comes first, and alone.
    assert shapes == [(sizes.count(size), 3, *size) for size in sorted(set(sizes))]


def test_a_picture_given_as_an_array_is_the_picture_of_the_data_set(
    detector: Detector, pictures: list[np.ndarray], small_world: SmallWorld
) -> None:
    batches = EvaluationBatches(load_split(small_world.val), detector.transforms, batch_size=1)
    found = dict(detector.predict(batches[position] for position in range(len(batches))))
    for alone, image_id in zip(detector(pictures), (10, 22, 25), strict=True):
        assert_equal(alone, found[image_id])


def test_no_pictures_no_detections(detector: Detector) -> None:
    assert detector([]) == []


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (333, 17)])
def test_pictures_of_any_size(detector: Detector, size: tuple[int, int]) -> None:
    (found,) = detector([np.zeros((*size, 3), dtype=np.uint8)])
    assert bool(found.boxes.isfinite().all()) and bool(
        (found.boxes <= torch.tensor([size[1], size[0]] * 2) + 1e-3).all()
    )


def test_a_mirrored_view_of_an_array_is_detected_on_as_its_copy(detector: Detector, pictures: list[np.ndarray]) -> None:
    view = pictures[0][:, ::-1]
    assert_equal(detector([view])[0], detector([view.copy()])[0])


def test_a_score_threshold_keeps_what_is_above_it(detector: Detector, pictures: list[np.ndarray]) -> None:
    (everything,) = detector(pictures[:1])
    middle = everything.scores.median().item()
    (above,) = detector(pictures[:1], score_threshold=middle)
    assert 0 < len(above.scores) < len(everything.scores)
    assert_equal(above, Detections(*(field[everything.scores > middle] for field in everything)))
    assert bool((everything.scores.diff() <= 0).all())  # best first
    assert len(detector(pictures[:1], score_threshold=1.0)[0].boxes) == 0


def test_another_postprocess_takes_the_place_of_the_papers(path: Path, pictures: list[np.ndarray]) -> None:
    detector = Detector.load(path)
    (everything,) = detector(pictures[:1])
    detector.postprocess = detector.build_postprocess(max_detections=3)
    (three,) = detector(pictures[:1])
    assert_close(three.scores, everything.scores[:3])


def test_the_softmax_form_has_a_logit_for_the_background(pictures: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    description = describe("softmax_focal")
    network = build_network(description)
    assert network.class_head.output.out_channels == 9 * 4
    detector = Detector(network, description)
    detector.postprocess = detector.build_postprocess(score_threshold=0.0)
    (found,) = detector(pictures[:1])
    # Fresh heads give all four logits alike: each class has about a quarter.
    assert_close(found.scores, torch.full_like(found.scores, 0.25), rtol=0, atol=0.1)
    assert set(found.labels.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(detector: Detector, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"the image is an array \[.*\] of .*, expected \[H, W, 3\] of uint8 RGB"):
        detector([array])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.pt does not exist; run the train stage first"):
        Detector.load(tmp_path / "model.pt")
