"""Stage anchor_stats: the anchors used in training, and their coverage of the ground truth at training scale."""
