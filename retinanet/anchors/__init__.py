"""Anchors and boxes: the grid, the box code, and the matcher that meets them with ground truth."""
