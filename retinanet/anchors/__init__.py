"""Anchors and boxes: the anchor grid, the box code, and the matcher of anchors and ground truth."""
