from __future__ import annotations

from bench.padding import compare


def test_global_batches_pad_hardly_more_than_the_batches_of_one_gpu() -> None:
    figures = compare()
    peers = figures["training, peers: 2 per GPU by orientation"]
    assert figures["training, 16 by orientation (ours)"] <= 1.10 * peers
    assert figures["evaluation, 8 by aspect ratio (ours)"] <= peers
    assert figures["training, 16 at random"] > 1.5 * peers  # what grouping saves
