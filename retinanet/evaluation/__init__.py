"""COCO's measures."""
