"""Stage evaluate: COCO metrics, curves and drawn detections of the trained detector on a held-out split."""
