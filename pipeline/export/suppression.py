"""Class-wise non-maximum suppression of a batch: as an operator that ONNX has, and as torchvision computes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms

NO_CANDIDATE = 0.0


@torch.library.custom_op("retinanet::class_wise_nms", mutates_args=())
def class_wise_nms(boxes: Tensor, scores: Tensor, most_per_class: int, nms_iou: float) -> Tensor:
    """Suppress within each image and class, as ONNX's NonMaxSuppression.

    Args:
        boxes: [N, R, 4] px.
        scores: [N, K, R] of each class; 0: no candidate.
        most_per_class: number that remains of a class on an image, at most.

    Returns:
        [S, 3] image, class and candidate of those that remain.
    """
    rows = [torch.zeros(0, 3, dtype=torch.int64)]
    for image, label in torch.cartesian_prod(*(torch.arange(n) for n in scores.shape[:2])).tolist():
        chosen = torch.nonzero(scores[image, label] > NO_CANDIDATE).flatten()
        own = boxes[image, chosen].double(), scores[image, label, chosen].double()
        kept = chosen[nms(*own, nms_iou)[:most_per_class]]
        rows.append(torch.stack([torch.full_like(kept, image), torch.full_like(kept, label), kept], dim=1))
    return torch.cat(rows)


@class_wise_nms.register_fake
def _(boxes: Tensor, scores: Tensor, most_per_class: int, nms_iou: float) -> Tensor:
    return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(), 3), dtype=torch.int64)


def onnx_translation(opset: Any) -> dict[Any, Any]:
    """The translation of class_wise_nms for torch.onnx.export.

    Args:
        opset: of onnxscript, such as onnxscript.opset20.
    """

    def translate(boxes: Any, scores: Any, most_per_class: int, nms_iou: float) -> Any:
        most, iou = opset.Constant(value_ints=[most_per_class]), opset.Constant(value_floats=[nms_iou])
        return opset.NonMaxSuppression(boxes, scores, most, iou, opset.Constant(value_floats=[NO_CANDIDATE]))

    return {torch.ops.retinanet.class_wise_nms.default: translate}


def suppress_with_torchvision(boxes: Tensor, scores: Tensor, most_per_class: int, nms_iou: float) -> Tensor:
    """The same with torchvision's operator, which any torch with torchvision can load.

    Boxes of every image and class are moved to a region of their own, in float64, so that large offsets do not round
    them. More than most_per_class may remain.
    """
    image, label, candidate = torch.nonzero(scores > NO_CANDIDATE).unbind(1)
    chosen, own = boxes[image, candidate].double(), scores[image, label, candidate].double()
    group = image * scores.shape[1] + label
    kept = torch.ops.torchvision.nms(chosen + (group * (boxes.max() + 1))[:, None], own, nms_iou)
    return torch.stack([image[kept], label[kept], candidate[kept]], dim=1)
