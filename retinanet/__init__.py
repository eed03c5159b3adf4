"""RetinaNet (Lin et al., "Focal Loss for Dense Object Detection", 2017, arXiv 1708.02002).

The letters of all shapes: N images, L levels of the pyramid (P3..P7), C anchors per cell, A anchors over all levels,
K classes, M ground-truth boxes, D detections, H and W height and width in pixels or cells.
"""
