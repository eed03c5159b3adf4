"""A trained detector: pictures in, detections out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from retinanet.anchors.grid import Grid
from retinanet.data.dataset import Batch, merge_batches
from retinanet.data.transforms import Transforms
from retinanet.inference.detector_file import load_detector
from retinanet.inference.joining import join_pictures
from retinanet.inference.postprocess import Detections, Postprocess
from retinanet.inference.predict import predict
from retinanet.inference.temperature import calibrate_scores, demand_temperature
from retinanet.network.model import RetinaNet, build_model
from retinanet.network.predictions import Predictions


class Detector:
    """A network with its anchor grid, classes, transforms and post-processing.

    Attributes:
        model: on any device, in any memory format and mode; detection changes none of them.
        grid: the anchor grid.
        class_names: K names.
        transforms: from pictures to network input.
        postprocess: by default with the description's values, or else the paper's; it may be replaced.
        description: as in the detector's file: parameters, classes, the run that trained it; imported detectors have
            a section postprocess, too.
    """

    def __init__(self, model: nn.Module, description: dict[str, Any]) -> None:
        self.model = model
        self.description = description
        self.grid = Grid.from_dict(description["anchors"])
        self.class_names: list[str] = [category["name"] for category in description["categories"]]
        self.transforms = Transforms.from_dict(description["transforms"])
        self.postprocess = self.build_postprocess(**description.get("postprocess", {}))

    @staticmethod
    def load(path: Path | str, device: torch.device | str = "cpu") -> Detector:
        """Load a detector from a file of the train stage.

        Raises:
            ValueError: when the file is missing, or is no detector.
        """
        weights, description = load_detector(path)
        model = build_network(description)
        model.load_state_dict(weights)
        model.to(device).to(memory_format=torch.channels_last)  # the faster format
        return Detector(model.eval(), description)

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return next(self.model.parameters()).device

    def build_postprocess(
        self,
        *,
        score_threshold: float = 0.05,
        candidates_per_level: int | None = 1000,
        nms_iou: float = 0.5,
        max_detections: int | None = 100,
        min_size: float | None = 0.0,
        calibrate: bool = False,
    ) -> Postprocess:
        """Build post-processing for this network; parameters as of Postprocess, by default the paper's.

        Args:
            score_threshold: of raw scores, also where they are calibrated.
            calibrate: divide the logits of scores by the temperature that the training fitted on val.

        Raises:
            ValueError: when the detector has no temperature, and calibrate is set.
        """
        model = self.description["model"]
        return Postprocess(
            self.grid,
            len(self.class_names),
            score_threshold=score_threshold,
            candidates_per_level=candidates_per_level,
            nms_iou=nms_iou,
            max_detections=max_detections,
            min_size=min_size,
            softmax=self.description["loss"]["class_loss"] == "softmax_focal",
            temperature=demand_temperature(self.description) if calibrate else None,
            box_means=model["box_means"],
            box_stds=model["box_stds"],
            box_limits=model.get("box_limits", "upper"),
        )

    def __call__(
        self, images: Sequence[npt.NDArray[np.uint8]], *, score_threshold: float | Sequence[float] | None = None
    ) -> list[Detections]:
        """Detect on pictures one at a time, so that the detections of a picture do not depend on the others.

        Where the transforms have tiles, each tile is detected alone, and those of a picture are joined.

        Args:
            images: [H, W, 3] uint8 RGB arrays of any size.
            score_threshold: one, or one for each of the K classes, of the scores that are returned; not below that
                of `postprocess`. None: that of `postprocess`.

        Returns:
            The detections of each picture in its px, best first.
        """
        limits = torch.tensor(0.0 if score_threshold is None else score_threshold, dtype=torch.float32)  # [] or [K]
        found = []
        for image in images:
            ((_, detections),) = self.predict(self._batches(read_array(image)))
            keep = detections.scores > (limits[detections.labels] if limits.ndim else limits)
            found.append(Detections(*(field[keep] for field in detections)))
        return found

    def prepare(self, image: Tensor) -> list[Batch]:
        """Resize a picture [3, H, W] uint8 RGB for `detect`: a batch of one image, or of each of its tiles."""
        return list(self._batches(image))

    def detect(self, pictures: Sequence[Sequence[Batch]], *, images_per_pass: int = 8) -> list[Detections]:
        """Detect on prepared pictures together, which is faster than one at a time.

        Only images of one padded size share a forward pass, so the detections of a picture depend on the others by
        rounding alone.

        Args:
            pictures: as of `prepare`.
            images_per_pass: at most, through the network.

        Returns:
            The detections of each picture in its px, best first.
        """
        order: Sequence[int] = range(len(pictures))
        if self.transforms.tiles is None:  # else the tiles of a picture must stay together
            order = sorted(order, key=lambda place: pictures[place][0].padded_size)
        batches = (batch._replace(image_ids=[place]) for place in order for batch in pictures[place])
        found = dict(self.predict(merge_batches(batches, images_per_pass)))
        return [found[place] for place in range(len(pictures))]

    def predict(
        self, batches: Iterable[Batch], *, observe: Callable[[Batch, Predictions], object] | None = None
    ) -> Iterator[tuple[int, Detections]]:
        """Detect on batches of a data set; image ids with detections in px of the pictures; observe as of predict.

        Where the transforms have tiles, those of a picture must follow each other, as in EvaluationBatches.
        """
        mean, std = list(self.transforms.mean), list(self.transforms.std)
        device, post = self.device, self.postprocess
        tiles = predict(self.model, post, batches, mean=mean, std=std, device=device, observe=observe)
        found: Iterator[tuple[int, Detections]] = ((image_id, detections) for image_id, _, detections in tiles)
        if self.transforms.tiles is not None:
            found = join_pictures(tiles, nms_iou=post.nms_iou, max_detections=post.max_detections)
        return found if post.temperature is None else calibrated(found, post.temperature)

    def _batches(self, image: Tensor) -> Iterator[Batch]:
        """One picture [3, H, W] as a batch without ground truth, or each of its tiles."""
        if self.transforms.tiles is None:
            yield self._batch(image)
            return
        for left, top, right, bottom in self.transforms.tiles.windows((image.shape[1], image.shape[2])).tolist():
            yield self._batch(image[:, top:bottom, left:right], corner=(top, left))

    def _batch(self, image: Tensor, *, corner: tuple[int, int] = (0, 0)) -> Batch:
        """One picture or tile [3, H, W] as a batch without ground truth."""
        original = (image.shape[1], image.shape[2])
        resized, _, _ = self.transforms.apply(image, torch.zeros(0, 4), self.transforms.for_evaluation)
        size = (resized.shape[1], resized.shape[2])
        return Batch(
            images=self.transforms.pad([resized], self.transforms.padded_size_of([size])),
            boxes=torch.zeros(0, 4),
            labels=torch.zeros(0, dtype=torch.int64),
            counts=[0],
            image_sizes=torch.tensor([size]),
            original_sizes=torch.tensor([original]),
            image_ids=[0],
            corners=[corner],
        )


def calibrated(found: Iterable[tuple[int, Detections]], temperature: float) -> Iterator[tuple[int, Detections]]:
    """The same detections with calibrated scores."""
    for image_id, detections in found:
        yield image_id, detections._replace(scores=calibrate_scores(detections.scores, temperature))


def read_array(image: npt.NDArray[np.uint8]) -> Tensor:
    """Copy a picture [H, W, 3] uint8 to a tensor [3, H, W]."""
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(
            f"the image is an array {list(array.shape)} of {array.dtype}, expected [H, W, 3] of uint8 RGB; convert it"
        )
    return torch.from_numpy(np.array(array.transpose(2, 0, 1), order="C"))


def build_network(description: dict[str, Any]) -> RetinaNet:
    """Build the network of a description with random weights."""
    others = ("weights", "box_means", "box_stds", "box_limits")
    model = {key: value for key, value in description["model"].items() if key not in others}
    softmax = description["loss"]["class_loss"] == "softmax_focal"
    return build_model(
        num_logits=len(description["categories"]) + softmax,
        anchors_per_cell=Grid.from_dict(description["anchors"]).anchors_per_cell,
        **model,
    )
