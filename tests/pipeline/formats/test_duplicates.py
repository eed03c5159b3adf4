"""Laws of near-identical pictures: copies are found in every orientation, and similar backgrounds are none."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline.formats import duplicates
from pipeline.formats.duplicates import (
    Forest,
    correlate,
    find_candidates,
    find_copies,
    find_details,
    hash_details,
    label_groups,
    orientations,
)
from pipeline.formats.shapes import draw_split
from retinanet.data.pixels import measure
from tests.textures import COPIES, encode, texture

SIMILARITY = 0.9


def thumbnails(pictures: Sequence[bytes]) -> list[bytes]:
    return [measure(content).thumbnail for content in pictures]


def groups_of(thumbs: Sequence[bytes], similarity: float = SIMILARITY) -> set[frozenset[int]]:
    """The groups of at least two pictures."""
    labels = label_groups(len(thumbs), find_copies(thumbs, similarity)).tolist()
    return {
        frozenset(index for index, other in enumerate(labels) if other == label)
        for label in labels
        if labels.count(label) > 1
    }


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found_and_nothing_else(kind: str) -> None:
    originals = [texture(seed) for seed in range(12)]
    pictures = [*map(encode, originals), *map(COPIES[kind], originals)]
    assert groups_of(thumbnails(pictures)) == {frozenset((index, 12 + index)) for index in range(12)}


def test_drawn_pictures_with_similar_backgrounds_are_no_copies_and_their_copies_are(tmp_path: Path) -> None:
    drawing = {"max_objects": 3, "min_size": 8, "max_size": 24, "empty_fraction": 0.2, "noise": 4.0}
    draw_split(tmp_path, "train", 60, root="", classes=None, seed=2, image_size=64, **drawing)  # type: ignore[arg-type]
    pictures = [Image.open(path) for path in sorted(tmp_path.rglob("*.png"))]
    originals = [encode(picture) for picture in pictures]
    assert groups_of(thumbnails(originals)) == set()
    found = groups_of(thumbnails([*originals, *(encode(picture, "JPEG", quality=70) for picture in pictures)]))
    assert found == {frozenset((index, 60 + index)) for index in range(60)}


def micrograph(seed: int, *, ground: float, dot: float) -> Image.Image:
    """Few spots on a background that all pictures share, darker towards its corners."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:96, 0:128]
    pixels = ground * (1 - 0.4 * ((x - 64) / 80) ** 2 - 0.4 * ((y - 48) / 60) ** 2) + rng.normal(0, 2, x.shape)
    for column, row in rng.uniform((0, 0), (128, 96), (6, 2)):
        pixels += dot * np.exp(-((x - column) ** 2 + (y - row) ** 2) / 18)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(("ground", "dot"), [(8.0, 120.0), (8.0, 40.0), (200.0, -90.0), (120.0, 100.0)])
def test_spots_on_one_background_are_no_copies_and_their_copies_are(ground: float, dot: float) -> None:
    pictures = [micrograph(seed, ground=ground, dot=dot) for seed in range(40)]
    originals = [encode(picture) for picture in pictures]
    assert groups_of(thumbnails(originals)) == set()
    found = groups_of(thumbnails([*originals, *(encode(picture, "JPEG", quality=50) for picture in pictures)]))
    assert found == {frozenset((index, 40 + index)) for index in range(40)}


def test_plain_pictures_are_no_copies() -> None:
    rng = np.random.default_rng(3)
    plain = [np.full((64, 64), grey, np.uint8) for grey in (0, 0, 128, 255)]
    noisy = [rng.integers(100, 104, (64, 64), dtype=np.uint8) for _ in range(4)]
    shaded = [np.tile(np.arange(64, dtype=np.uint8), (64, 1)) + grey for grey in (0, 40)]
    assert groups_of(thumbnails([encode(Image.fromarray(pixels)) for pixels in (*plain, *noisy, *shaded)])) == set()
    assert find_copies([], SIMILARITY).shape == (0, 2)


def test_details_are_differences_from_the_neighbourhood_of_9_by_9() -> None:
    greys = np.zeros((1, 32, 32), np.uint8)
    greys[0, 16, 10] = 81
    (details,) = find_details(greys)
    expected = np.zeros((32, 32))
    expected[12:21, 6:15] = -1  # 81 / 81
    expected[16, 10] = 80
    np.testing.assert_array_equal(details, expected)
    assert not find_details(np.full((1, 32, 32), 200, np.uint8)).any()  # also at the edges


def test_correlation_by_hand() -> None:
    one, other = np.zeros((2, 1, 32, 32), np.int8)
    one[0, :16], other[0, :8] = 4, 2
    # shares p = 1/2 and q = 1/4, q within p: (q - pq) / sqrt(p (1 - p) q (1 - q)) = 1 / sqrt 3
    assert correlate(one, other)[0] == pytest.approx(3**-0.5)
    assert correlate(one, -one)[0] == pytest.approx(-1)


@st.composite
def small_sets(draw: st.DrawFn) -> list[bytes]:
    """Thumbnails of a few scenes: turned, changed a little or a lot, and not at all."""
    found = []
    for _ in range(draw(st.integers(1, 9))):
        scene = texture(draw(st.integers(0, 3)), 32, 32).transpose(draw(st.sampled_from(Image.Transpose)))
        noise = np.random.default_rng(draw(st.integers(0, 99))).normal(
            0, draw(st.sampled_from([0, 9, 25, 60])), (32, 32)
        )
        found.append((np.asarray(scene) + noise).clip(0, 255).astype(np.uint8).tobytes())
    return found


def groups_by_brute_force(thumbs: Sequence[bytes], similarity: float) -> set[frozenset[int]]:
    """Every pair in every orientation, and the groups that the pairs connect."""
    details = find_details(np.frombuffer(b"".join(thumbs), np.uint8).reshape(-1, 32, 32))
    groups = [{index} for index in range(len(details))]
    for one in range(len(details)):
        for other in range(len(details)):
            if one != other and are_near(details[[one]], details[[other]], similarity):
                united = next(group for group in groups if one in group) | next(g for g in groups if other in g)
                groups = [united, *(group for group in groups if not group & united)]
    return {frozenset(group) for group in groups if len(group) > 1}


def are_near(one: NDArray[np.int8], other: NDArray[np.int8], similarity: float) -> bool:
    bits = [int.from_bytes(hash_details(turned).T.tobytes(), "little") for turned in (other, *orientations(one))]
    different = [bits[0] ^ turned for turned in bits[1:]]
    is_candidate = [
        min(((pair >> 16 * block) & 0xFFFF).bit_count() for block in range(8)) <= 1
        and pair.bit_count() <= duplicates._most_bits(similarity)
        for pair in different
    ]
    found = [correlate(turned, other)[0] for turned in orientations(one)]
    return any(near and value >= similarity for near, value in zip(is_candidate, found, strict=True))


@pytest.mark.parametrize("paired", [duplicates.PAIRED, 2])
@given(thumbs=small_sets(), similarity=st.sampled_from([0.7, 0.9, 0.98]))
@settings(max_examples=15)
def test_groups_are_those_of_all_pairs(paired: int, thumbs: list[bytes], similarity: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "PAIRED", paired)
        assert groups_of(thumbs, similarity) == groups_by_brute_force(thumbs, similarity)


@st.composite
def near_hashes(draw: st.DrawFn) -> list[int]:
    """Hashes of 128 bits that differ from one of two in any bits, or in 2 of each block but one and in few of that."""
    first = draw(st.lists(st.integers(0, 2**128 - 1), min_size=1, max_size=2))
    hashes = []
    for _ in range(draw(st.integers(1, 9))):
        spared = draw(st.integers(0, 7))
        bits = {16 * block + bit for block in range(8) if block != spared for bit in (3, 11)}
        bits |= {16 * spared + bit for bit in draw(st.sets(st.integers(0, 15), max_size=2))}
        bits = draw(st.sampled_from([bits, draw(st.sets(st.integers(0, 127), max_size=14))]))
        hashes.append(draw(st.sampled_from(first)) ^ sum(1 << bit for bit in bits))
    return hashes


@pytest.mark.parametrize("paired", [duplicates.PAIRED, 3])
@given(values=near_hashes(), max_bits=st.integers(0, 28), data=st.data())
@settings(max_examples=40)
def test_candidates_are_all_pairs_of_two_groups_with_nearly_equal_blocks(
    paired: int, values: list[int], max_bits: int, data: st.DataObject
) -> None:
    words = np.array([[value >> shift & 2**64 - 1 for value in values] for shift in (0, 64)], np.uint64)
    items = st.integers(0, len(values) - 1)
    forest = Forest(len(values))
    forest.link(np.array(data.draw(st.lists(st.tuples(items, items), max_size=3)), np.int64).reshape(-1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "PAIRED", paired)
        found = np.concatenate([*find_candidates(words, words, forest, max_bits=max_bits), np.zeros((0, 2), np.int64)])
    expected = {
        (one, other)
        for one, other in itertools.product(range(len(values)), repeat=2)
        for different in [values[one] ^ values[other]]
        if forest.labels[one] != forest.labels[other] and different.bit_count() <= max_bits
        if min((different >> 16 * block & 0xFFFF).bit_count() for block in range(8)) <= 1
    }
    assert {(one, other) for one, other in forest.apart(found).tolist()} == expected


@given(thumbs=small_sets(), data=st.data())
@settings(max_examples=15)
def test_order_of_pictures_does_not_matter(thumbs: list[bytes], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(thumbs))))
    shuffled = groups_of([thumbs[index] for index in order])
    assert {frozenset(order[index] for index in group) for group in shuffled} == groups_of(thumbs)


def test_many_pictures_of_one_scene_are_one_group() -> None:
    scene = np.asarray(texture(0, 32, 32)).astype(float)
    rng = np.random.default_rng(4)
    thumbs = [(scene + rng.normal(0, 4, scene.shape)).clip(0, 255).astype(np.uint8).tobytes() for _ in range(1000)]
    pairs = find_copies(thumbs, SIMILARITY)
    assert set(label_groups(1000, pairs).tolist()) == {0}
    assert len(pairs) < 20 * 1000  # not the 499,500 of all
