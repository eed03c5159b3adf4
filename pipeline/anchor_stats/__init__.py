"""Stage anchor_stats: the anchors that train uses, and how well they cover the truths at training scale."""
