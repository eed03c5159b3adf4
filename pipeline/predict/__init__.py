"""Command predict: detections on pictures of any folder."""
