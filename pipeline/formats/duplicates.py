"""Near-identical pictures: copies that were encoded again, resized, brightened, mirrored or turned by quarters.

Two pictures are near-identical if the details of their small grey copies correlate in one of the 8 orientations.
Details are differences from the neighbourhood, so neither a background that many pictures share nor its shading makes a
copy. To compare few pairs, each picture gets a hash whose bits are the signs of random projections (Charikar 2002): if
two pictures correlate by r, a bit differs with probability arccos(r) / pi. Pairs whose hashes have almost equal blocks
are compared.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retinanet.data.pixels import THUMBNAIL

Greys = NDArray[np.uint8]
Details = NDArray[np.int8]
Hashes = NDArray[np.uint64]
Indices = NDArray[np.int64]

# The neighbourhood of a pixel reaches so far on each side.
REACH = 4
# Standard deviation of the details, grey levels: a plainer picture has only noise to compare, so it is no copy.
MIN_CONTRAST = 1.5
# A pair is compared if one of the blocks of its hashes differs in at most one bit.
NUM_BLOCKS, BLOCK_BITS = 8, 16
# Bounds of memory: pictures hashed, pairs of blocks, and pictures compared at once.
HASHED, PAIRED, COMPARED = 8192, 2**20, 4096


class Copies(NamedTuple):
    """Near-identical pictures among files, which are named by their digests.

    Attributes:
        similarity: see `find_copies`.
        groups: the number of the group of each file.
        pairs: near-identical files that connect each group.
    """

    similarity: float
    groups: Mapping[str, int]
    pairs: Sequence[tuple[str, str]]


def search_copies(pictures: Mapping[str, bytes], similarity: float) -> Copies:
    """Find near-identical pictures among files.

    Args:
        pictures: the thumbnail of each file, by its digest.
    """
    digests = list(pictures)
    pairs = find_copies(list(pictures.values()), similarity)
    labels = label_groups(len(digests), pairs).tolist()
    named = [(digests[one], digests[other]) for one, other in pairs.tolist()]
    return Copies(similarity, dict(zip(digests, labels, strict=True)), named)


def find_copies(thumbnails: Sequence[bytes], similarity: float) -> Indices:
    """Find near-identical pictures.

    Args:
        thumbnails: of N pictures, as `measure` returns them.
        similarity: smallest correlation of two near-identical pictures. At 0.97 the hash misses 3 pairs of 10,000, at
            0.9 one of 20.

    Returns:
        pairs [E, 2] of near-identical pictures that connect each group of them; not every pair of a large group.
    """
    greys = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL)
    details = find_details(greys)
    squares = np.einsum("nij,nij->n", details, details, dtype=np.int64)
    variance = squares / THUMBNAIL**2 - details.mean(axis=(1, 2)) ** 2
    chosen = np.flatnonzero(variance >= MIN_CONTRAST**2)
    details = details[chosen]
    forest = Forest(len(details))
    hashes = hash_details(details)
    for turned in orientations(details):
        for pairs in find_candidates(hash_details(turned), hashes, forest, max_bits=_most_bits(similarity)):
            for start in range(0, len(pairs), COMPARED):
                part = forest.apart(pairs[start : start + COMPARED])
                forest.link(part[correlate(turned[part[:, 0]], details[part[:, 1]]) >= similarity])
    return chosen[forest.edges()]


def label_groups(num_items: int, pairs: Indices) -> Indices:
    """Return the number of the group [N] of each item; items that pairs [E, 2] connect are of one group."""
    from scipy.sparse import coo_array  # a third of a second, which a command's help need not wait for
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(len(pairs), np.int8)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(num_items, num_items))
    labels: Indices = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels


def find_details(greys: Greys) -> Details:
    """Return pictures [N, S, S] less the rounded mean around each pixel; beyond the edge, pixels are repeated."""
    details = np.empty(greys.shape, np.int8)
    side = 2 * REACH + 1
    for start in range(0, len(greys), HASHED):
        part = greys[start : start + HASHED].astype(np.int64)
        padded = np.pad(part, ((0, 0), (REACH, REACH), (REACH, REACH)), mode="edge")
        sums = np.pad(padded.cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))
        around = sums[:, side:, side:] - sums[:, :-side, side:] - sums[:, side:, :-side] + sums[:, :-side, :-side]
        details[start : start + HASHED] = np.rint(part - around / side**2).clip(-127, 127)
    return details


def orientations(pictures: Details) -> Iterator[Details]:
    """Yield pictures [N, S, S] in their 8 orientations, the given one first."""
    for seen in (pictures, pictures[:, :, ::-1]):
        for turns in range(4):
            yield np.rot90(seen, turns, axes=(1, 2))


def hash_details(details: Details) -> Hashes:
    """Return the bits, in words [2, N] of 64: the signs of the products of details [N, S, S] and random projections."""
    projections = _projections()
    hashes = np.zeros((NUM_BLOCKS * BLOCK_BITS // 64, len(details)), np.uint64)
    for start in range(0, len(details), HASHED):
        part = details[start : start + HASHED].reshape(-1, THUMBNAIL**2)
        bits = part.astype(np.float32) @ projections > 0  # exact: sums of integers below 2^24
        hashes[:, start : start + HASHED] = np.packbits(bits, axis=1).view(np.uint64).T
    return hashes


def find_candidates(queries: Hashes, hashes: Hashes, forest: Forest, *, max_bits: int) -> Iterator[Indices]:
    """Yield pairs [P, 2] (query, picture) that differ in at most one bit of a block, and in at most `max_bits` of all.

    A pair may come several times; one that the forest connects already may be left out.
    """
    for block in range(NUM_BLOCKS):
        buckets, asked = _Buckets(_block(hashes, block)), _block(queries, block)
        for flipped in (0, *(1 << bit for bit in range(BLOCK_BITS))):
            for query, picture in buckets.look_up(asked ^ flipped, forest):
                words = zip(queries, hashes, strict=True)
                bits = sum(np.bitwise_count(word[query] ^ other[picture]) for word, other in words)
                near = np.flatnonzero(bits <= max_bits)
                yield np.stack([query[near], picture[near]], axis=1)


def correlate(one: Details, other: Details) -> NDArray[np.float64]:
    """Return the correlation [P] of pairs of pictures [P, S, S]; brightness and contrast do not matter."""
    a, b = (pictures.reshape(-1, THUMBNAIL**2).astype(np.float64) for pictures in (one, other))
    count = a.shape[1]
    # Sums of integers are exact in float64, so that neither the order of a pair nor its orientation matters.
    both = count * np.einsum("pi,pi->p", a, b) - a.sum(axis=1) * b.sum(axis=1)
    spreads = [count * np.einsum("pi,pi->p", x, x) - x.sum(axis=1) ** 2 for x in (a, b)]
    correlation: NDArray[np.float64] = both / np.sqrt(spreads[0] * spreads[1])
    return correlation


@cache
def _projections() -> NDArray[np.float32]:
    """Return random numbers -1 and 1 [S * S, bits], the same everywhere."""
    num_bits = NUM_BLOCKS * BLOCK_BITS
    noise = np.frombuffer(hashlib.shake_128(b"projections").digest(THUMBNAIL**2 * num_bits // 8), np.uint8)
    return 2 * np.unpackbits(noise).reshape(-1, num_bits).astype(np.float32) - 1


def _most_bits(similarity: float) -> int:
    """Return how many bits of two pictures with this correlation differ, 3 standard deviations above the mean."""
    num_bits, chance = NUM_BLOCKS * BLOCK_BITS, math.acos(similarity) / math.pi
    return math.ceil(num_bits * chance + 3 * math.sqrt(num_bits * chance * (1 - chance)))


def _block(hashes: Hashes, block: int) -> Indices:
    """Return the bits [N] of a block."""
    word, place = divmod(block, 64 // BLOCK_BITS)
    bits: Indices = (hashes[word] >> np.uint64(BLOCK_BITS * place)).astype(np.int64) & (2**BLOCK_BITS - 1)
    return bits


class Forest:
    """Groups of items, joined by pairs."""

    def __init__(self, num_items: int) -> None:
        self.labels: Indices = np.arange(num_items)
        self.pairs: list[Indices] = [np.zeros((0, 2), np.int64)]

    def apart(self, pairs: Indices) -> Indices:
        """Return those of pairs [P, 2] that are in two groups."""
        between: Indices = pairs[self.labels[pairs[:, 0]] != self.labels[pairs[:, 1]]]
        return between

    def link(self, pairs: Indices) -> None:
        """Join the two groups of each of pairs [P, 2]."""
        if len(pairs):
            self.pairs.append(pairs)
            self.labels = label_groups(len(self.labels), self.labels[pairs])[self.labels]

    def edges(self) -> Indices:
        """Return all pairs [E, 2], each once, with the smaller item first."""
        edges: Indices = np.unique(np.sort(np.concatenate(self.pairs), axis=1), axis=0)
        return edges


class _Buckets:
    """Items by key."""

    def __init__(self, keys: Indices) -> None:
        self.order = np.argsort(keys, kind="stable")
        self.starts = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=2**BLOCK_BITS))])

    def look_up(self, keys: Indices, forest: Forest) -> Iterator[tuple[Indices, Indices]]:
        """Yield pairs (query [P], item [P]) of equal keys, about PAIRED at once.

        The bucket of a query is left out if all its items are of the query's group: many pictures of one scene would
        take quadratic time.
        """
        counts = self.starts[keys + 1] - self.starts[keys]
        ahead = np.flatnonzero(counts)
        while len(ahead):
            total = np.cumsum(counts[ahead])
            if total[-1] > PAIRED:
                ahead = ahead[~self._is_of_group(keys[ahead], forest.labels[ahead], forest.labels)]
                total = np.cumsum(counts[ahead])
            num_taken = max(1, int(np.searchsorted(total, PAIRED, side="right")))
            yield self._pair(ahead[:num_taken], keys, counts)
            ahead = ahead[num_taken:]

    def _is_of_group(self, keys: Indices, groups: Indices, labels: Indices) -> NDArray[np.bool_]:
        """Return whether all items of these buckets [Q], which are not empty, are of these groups [Q]."""
        sorted_labels = labels[self.order]
        changes = np.cumsum(np.diff(sorted_labels, prepend=sorted_labels[:1]) != 0)
        first, last = self.starts[keys], self.starts[keys + 1] - 1
        is_of_group: NDArray[np.bool_] = (changes[first] == changes[last]) & (sorted_labels[first] == groups)
        return is_of_group

    def _pair(self, queries: Indices, keys: Indices, counts: Indices) -> tuple[Indices, Indices]:
        """Return each query with every item of its bucket."""
        sizes = counts[queries]
        before = np.cumsum(sizes) - sizes
        places = np.arange(sizes.sum()) + np.repeat(self.starts[keys[queries]] - before, sizes)
        return np.repeat(queries, sizes), self.order[places]
