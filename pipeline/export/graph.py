"""The detector as one module of fixed output shapes, for export: pictures to detections, in the order of Detector.

The same steps as predict and Postprocess take, with what a graph without Python needs: every picture has the same
number of candidates and of outputs, and the anchors are computed from the size of the batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from retinanet.anchors.boxes import clip_boxes
from retinanet.anchors.grid import cell_anchors
from retinanet.inference.detector import Detector
from retinanet.inference.postprocess import logit
from retinanet.network.backbone import FrozenNorm
from retinanet.network.model import RetinaNet

Suppress = Callable[[Tensor, Tensor, int, float], Tensor]
"""boxes [N, R, 4], scores [N, K, R] (0: no candidate), most per class and image, IoU -> [S, 3] image, class and
candidate of those that remain."""


class Candidates(NamedTuple):
    """The candidates of one level: the R best of every image, or with all of them R = C*H*W, in the order of anchors.

    Attributes:
        values: [N, R] logits, or probabilities in the softmax form; of all candidates [N, K, R].
        labels: [N, R]; of all candidates without meaning.
        rows: [N or 1, R] of DetectionGraph.cells.
        x, y: [N or 1, R] px, centres of the cells.
        codes: [N, 4, R].
    """

    values: Tensor
    labels: Tensor
    rows: Tensor
    x: Tensor
    y: Tensor
    codes: Tensor


INPUTS = ("images", "sizes")
OUTPUTS = ("boxes", "scores", "labels", "counts")


class DetectionGraph(nn.Module):
    """A detector's network and post-processing over a batch of resized pictures.

    Args:
        detector: without tiles, with a limit of detections, on the CPU; its network is copied.
        suppress: class-wise non-maximum suppression.
    """

    scale: Tensor
    shift: Tensor
    box_means: Tensor
    box_stds: Tensor
    cells: Tensor

    def __init__(self, detector: Detector, suppress: Suppress) -> None:
        super().__init__()
        post = detector.postprocess
        assert isinstance(detector.model, RetinaNet) and detector.transforms.tiles is None
        assert post.max_detections is not None
        self.network = fold_norms(detector.model)
        self.grid, self.postprocess = detector.grid, post
        self.keeps_all = post.candidates_per_level is None
        candidates = (
            math.inf if post.candidates_per_level is None else post.candidates_per_level * len(self.grid.strides)
        )
        self.most = int(min(post.max_detections, candidates))
        self.size_divisor, self.suppress = detector.transforms.size_divisor, suppress
        mean, std = detector.transforms.mean, detector.transforms.std
        self._constant("scale", [255.0 * value for value in std])
        self._constant("shift", [value / deviation for value, deviation in zip(mean, std, strict=True)])
        limits = post.decode.keywords
        self.log_limits = limits["min_log_ratio"], limits["max_log_ratio"]
        self.has_plain_code = not any(limits["means"]) and set(limits["stds"]) == {1}
        self._constant("box_means", limits["means"])
        self._constant("box_stds", limits["stds"])
        grid = self.grid
        cells = [cell_anchors(sizes, grid.aspect_ratios, rounded=grid.rounded) for sizes in grid.sizes]
        self.register_buffer("cells", torch.cat(cells).float(), persistent=False)  # [L*C, 4] around a cell's centre

    def _constant(self, name: str, values: Sequence[float]) -> None:
        self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Detect on a batch.

        Args:
            images: [N, H, W, 3] uint8 RGB, resized, each at the top left; what lies beside it does not matter.
            sizes: [N, 2] int64 height and width of each, px.

        Returns:
            Of each image the D best detections, best first: boxes [N, D, 4] float32 in px of `images`, scores [N, D]
            float32, labels [N, D] int64, and counts [N] int64 of those that there are; after them boxes and scores are
            0 and labels -1.
        """
        normalised, padded_size = self.normalise(images, sizes)
        logits, deltas = self.network(normalised)
        maps = zip(logits, deltas, strict=True)
        levels = [self.candidates(level, *pair, padded_size) for level, pair in enumerate(maps)]
        values, labels, rows, x, y, codes = (torch.cat(field, dim=-1) for field in zip(*levels, strict=True))
        boxes = self.decode(codes.transpose(1, 2), self.cells[rows], torch.stack([x, y], dim=-1))
        boxes = clip_boxes(boxes, sizes[:, None])  # [N, R, 4]
        return self.best(boxes, self.scores(values, labels, boxes))

    def normalise(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Normalise, clear what lies beside the images, and pad: [N, 3, H', W'] float32, and H', W'."""
        height, width = images.shape[1], images.shape[2]
        rows = torch.arange(height, device=images.device)[None, :] < sizes[:, :1]  # [N, H]
        columns = torch.arange(width, device=images.device)[None, :] < sizes[:, 1:]
        inside = (rows[:, :, None] & columns[:, None, :])[..., None]
        normalised = torch.where(inside, images.float() / self.scale - self.shift, 0.0)
        divisor = self.size_divisor
        padded_height, padded_width = ((side + divisor - 1) // divisor * divisor for side in (height, width))
        padding = (0, padded_width - width, 0, padded_height - height)
        return F.pad(normalised.permute(0, 3, 1, 2), padding), (padded_height, padded_width)

    def candidates(self, level: int, logits: Tensor, deltas: Tensor, padded_size: tuple[int, int]) -> Candidates:
        """The candidates of one level, from its maps [N, C*K, H, W] and [N, C*4, H, W]."""
        per_cell, (height, width) = self.grid.anchors_per_cell, logits.shape[2:]
        values = self.class_values(logits)
        codes = deltas.unflatten(1, (per_cell, 4)).transpose(1, 2).flatten(2)  # [N, 4, C*H*W]
        if self.keeps_all:
            values = values.unflatten(1, (per_cell, -1)).transpose(1, 2).flatten(2)  # [N, K, C*H*W]
            labels = anchor = torch.arange(per_cell * height * width, device=logits.device)[None]
        else:
            values, index = self.top(values.flatten(1))
            channel, cell = split_positive(index, height * width)
            row, labels = split_positive(channel, self.postprocess.num_classes)
            anchor = row * (height * width) + cell
            codes = codes.gather(2, anchor[:, None].expand(-1, 4, -1))
        row, cell = split_positive(anchor, height * width)
        y, x = split_positive(cell, width)
        step_x, step_y = self.strides(level, padded_size, (height, width))
        offset = self.grid.offset
        return Candidates(values, labels, row + level * per_cell, (x + offset) * step_x, (y + offset) * step_y, codes)

    def class_values(self, logits: Tensor) -> Tensor:
        """The map [N, C*K, H, W] of logits, or of probabilities in the softmax form."""
        if not self.postprocess.softmax:
            return logits
        by_class: Tensor = logits.unflatten(1, (-1, self.postprocess.num_classes + 1)).softmax(dim=2)
        return by_class[:, :, 1:].flatten(1, 2)

    def top(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The largest of every row [N, S], always as many: a row that is too short is filled up by -inf at index 0."""
        count = self.postprocess.candidates_per_level
        assert count is not None
        best, index = F.pad(values, (0, count), value=-math.inf).topk(count, dim=1)
        return best, torch.where(best > -math.inf, index, 0)

    def strides(self, level: int, padded_size: tuple[int, int], cells: tuple[int, int]) -> tuple[int, int]:
        """Distance between neighbouring anchors in x and in y, px."""
        if not self.grid.strides_from_image:
            return self.grid.strides[level], self.grid.strides[level]
        return padded_size[1] // cells[1], padded_size[0] // cells[0]

    def decode(self, codes: Tensor, cells: Tensor, centres: Tensor) -> Tensor:
        """Boxes [N, R, 4] px of codes [N, R, 4], anchors around a cell's centre [N, R, 4] and centres [N, R, 2]."""
        if not self.has_plain_code:
            codes = codes * self.box_stds + self.box_means
        sides = cells[..., 2:] - cells[..., :2]
        middles = centres + (cells[..., :2] + cells[..., 2:]) / 2 + codes[..., :2] * sides
        log_ratios = codes[..., 2:]
        if self.log_limits != (None, None):
            log_ratios = log_ratios.clamp(*self.log_limits)
        halves = sides * torch.exp(log_ratios) / 2
        return torch.cat([middles - halves, middles + halves], dim=-1)

    def scores(self, values: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        """Scores [N, K, R] of candidates; 0 for other classes, below the threshold, and for too small boxes."""
        post = self.postprocess
        chosen = values > (post.score_threshold if post.softmax else logit(post.score_threshold))
        if post.min_size is not None:
            large = ((boxes[..., 2:] - boxes[..., :2]) > post.min_size).all(dim=-1)  # [N, R]
            chosen = chosen & (large[:, None] if self.keeps_all else large)
        scores = torch.where(chosen, values if post.softmax else values.sigmoid(), 0.0)
        if self.keeps_all:
            return scores
        by_class = scores.new_zeros(scores.shape[0], post.num_classes, scores.shape[1])
        return by_class.scatter(1, labels[:, None], scores[:, None])

    def best(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Suppress boxes [N, R, 4] with scores [N, K, R], and take the best of every image; the outputs of forward."""
        num_candidates = boxes.shape[1]
        remain = self.suppress(boxes, scores, self.most, self.postprocess.nms_iou)
        ones = torch.ones((), dtype=scores.dtype, device=scores.device)
        kept = torch.zeros_like(scores).index_put(tuple(remain.unbind(1)), ones)
        best, index = (scores * kept).flatten(1).topk(self.most, dim=1)
        label, candidate = split_positive(index, num_candidates)
        is_found = best > 0
        found = boxes.gather(1, candidate[..., None].expand(-1, -1, 4))
        return (
            torch.where(is_found[..., None], found, 0.0),
            self.calibrate(best),
            torch.where(is_found, label, -1),
            is_found.sum(dim=1),
        )

    def calibrate(self, scores: Tensor) -> Tensor:
        """Calibrated scores, as calibrate_scores in float32; 0 stays 0."""
        if self.postprocess.temperature is None:
            return scores
        return ((scores.log() - (1 - scores).log()) / self.postprocess.temperature).sigmoid()


def split_positive(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Flat indices of a matrix with rows of that size to row and column, as split_index."""
    first = index // size
    return first, index - first * size


@torch.no_grad()
def fold_norms(network: RetinaNet) -> RetinaNet:
    """A copy in evaluation mode whose backbone has its batch normalisations in the weights of its convolutions."""
    network = copy.deepcopy(network).eval().to(memory_format=torch.contiguous_format)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    backbone = network.backbone
    fold(backbone, "conv1", "bn1")
    for block in backbone.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            names = [f"bn{number}" for number in (1, 2, 3) if hasattr(block, f"bn{number}")]
            for name in names:
                fold(block, name.replace("bn", "conv"), name)
            if block.downsample is not None:
                fold(block.downsample, "0", "1")
    return network


def fold(owner: nn.Module, convolution_name: str, norm_name: str) -> None:
    """Put a normalisation with fixed statistics into the convolution before it; any other stays."""
    convolution, norm = owner.get_submodule(convolution_name), owner.get_submodule(norm_name)
    assert isinstance(convolution, nn.Conv2d)
    if isinstance(norm, FrozenNorm):
        scale, shift = norm.scale_and_shift()
    elif isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm):
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
    else:
        return
    convolution.weight.mul_(scale[:, None, None, None])
    convolution.bias = nn.Parameter(shift.clone(), requires_grad=False)
    setattr(owner, norm_name, nn.Identity())
