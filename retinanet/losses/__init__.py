"""Loss functions: the focal loss in its sigmoid and softmax forms, and the box losses."""

from retinanet.losses.boxes import BOX_LOSSES, CODE_LOSSES, ciou_loss, giou_loss, l1_loss, smooth_l1_loss
from retinanet.losses.maps import sparse_sigmoid_focal_loss
from retinanet.losses.sigmoid import focal_background, sigmoid_focal_loss
from retinanet.losses.softmax import softmax_focal_loss

__all__ = [
    "BOX_LOSSES",
    "CODE_LOSSES",
    "ciou_loss",
    "focal_background",
    "giou_loss",
    "l1_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "softmax_focal_loss",
    "sparse_sigmoid_focal_loss",
]
