"""Laws of the split by fractions: every class in every part, fractions hit, nothing moved, and no order seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.formats.splitting import IMAGES, Group, assign

BOTH = {"val": 0.15, "test": 0.1}
CLASSES = ("ant", "bee", "cat", "dog")
FRACTIONS = st.sampled_from([{"val": 0.15}, BOTH, {"val": 0.3, "test": 0.3}, {"test": 0.05}])
PARTS = ("train", "val", "test")


def single(number: int, *classes: str) -> Group:
    return Group(f"{number}.png", Counter([IMAGES, *classes]))


@st.composite
def group_lists(draw: st.DrawFn, *, largest: int = 6, at_least: int = 3) -> list[Group]:
    """Groups of up to `largest` images, with up to 3 boxes of each of 4 classes."""
    counts = st.tuples(st.integers(1, largest), *[st.sampled_from([0, 0, 0, 1, 3]) for _ in CLASSES])
    found = draw(st.lists(counts, min_size=at_least, max_size=30))
    return [
        Group(f"g{number}", {IMAGES: images, **{name: n for name, n in zip(CLASSES, boxes, strict=True) if n}})
        for number, (images, *boxes) in enumerate(found)
    ]


def totals(groups: Sequence[Group], chosen: Sequence[str]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
    for group, part in zip(groups, chosen, strict=True):
        counts[part].update(group.counts)
    return counts


def test_three_groups_are_one_for_each_part_and_the_largest_is_of_train() -> None:
    groups = [Group("a", {IMAGES: 2, "ant": 1}), Group("b", {IMAGES: 9, "ant": 4}), Group("c", {IMAGES: 3, "ant": 2})]
    chosen = assign(groups, BOTH, seed=1)
    assert chosen[1] == "train" and sorted(chosen) == ["test", "train", "val"]


def test_a_class_in_fewer_groups_than_parts_is_in_train() -> None:
    groups = [single(number, "ant") for number in range(60)]
    for rare in ([single(60, "bee")], [single(60, "bee"), single(61, "bee")]):
        for seed in range(10):
            chosen = assign([*groups, *rare], BOTH, seed=seed)
            assert totals([*groups, *rare], chosen)["train"]["bee"] == len(rare)


@settings(max_examples=40)
@given(counts=st.lists(st.integers(3, 12), min_size=1, max_size=8), seed=st.integers(0, 9), fractions=FRACTIONS)
def test_each_class_with_a_group_for_each_part_is_in_every_part(
    counts: list[int], seed: int, fractions: dict[str, float]
) -> None:
    labels = [f"class {number}" for number, count in enumerate(counts) for _ in range(count)]
    groups = [single(number, label) for number, label in enumerate(labels)]
    found = totals(groups, assign(groups, fractions, seed=seed))
    assert all(found[part][label] for part in ("train", *fractions) for label in labels)


@settings(max_examples=40)
@given(groups=group_lists(at_least=12), seed=st.integers(0, 9), fractions=FRACTIONS)
def test_each_class_with_enough_groups_is_in_every_part_also_where_groups_have_several(
    groups: list[Group], seed: int, fractions: dict[str, float]
) -> None:
    found = totals(groups, assign(groups, fractions, seed=seed))
    holders = Counter(name for group in groups for name in group.counts)
    # Before a class, each of the other three may have taken one of its groups for each part.
    enough = [name for name in CLASSES if holders[name] >= len(CLASSES) * (1 + len(fractions))]
    assert all(found[part][name] for part in ("train", *fractions) for name in enough)


@settings(max_examples=40)
@given(groups=group_lists(), seed=st.integers(0, 9), fractions=FRACTIONS)
def test_no_part_is_empty(groups: list[Group], seed: int, fractions: dict[str, float]) -> None:
    assert set(assign(groups, fractions, seed=seed)) == {"train", *fractions}


@settings(max_examples=40)
@given(groups=group_lists(at_least=10), seed=st.integers(0, 9), fractions=FRACTIONS)
def test_fractions_are_hit_but_for_a_group_and_those_that_classes_need(
    groups: list[Group], seed: int, fractions: dict[str, float]
) -> None:
    found = totals(groups, assign(groups, fractions, seed=seed))
    num_images, largest = sum(group.counts[IMAGES] for group in groups), max(group.counts[IMAGES] for group in groups)
    needed = largest * (1 + len(CLASSES))  # a group for each class, and one so that no part is empty
    over = {part: max(fraction * num_images + largest, needed) for part, fraction in fractions.items()}
    for part, fraction in fractions.items():
        assert found[part][IMAGES] <= over[part]
        others = sum(over[other] - fractions[other] * num_images for other in fractions if other != part)
        assert found[part][IMAGES] >= fraction * num_images - largest - others


@pytest.mark.parametrize("fractions", [{"val": 0.15}, BOTH, {"val": 0.2, "test": 0.4}])
def test_single_images_hit_the_fractions_to_two_images_and_each_class_to_a_tenth(
    fractions: Mapping[str, float],
) -> None:
    groups = [
        single(number, *(["ant"] * (1 + number % 3)), *(["bee"] * (number % 5 == 0)), *(["cat"] * (number % 20 == 0)))
        for number in range(600)
    ]
    for seed in range(5):
        found = totals(groups, assign(groups, fractions, seed=seed))
        for part, fraction in fractions.items():
            assert abs(found[part][IMAGES] - fraction * 600) < 2
            for name, total in Counter(name for group in groups for name in Counter(group.counts).elements()).items():
                assert found[part][name] / total == pytest.approx(fraction, abs=0.1 * fraction + 1.5 / total), name


def test_many_classes_do_not_outweigh_the_fractions() -> None:
    for seed in range(8):
        random = Random(seed)
        groups = [
            Group(
                f"{n}.png",
                {IMAGES: 1} | {str(k): random.choice([1, 2, 5, 50]) for k in range(20) if random.random() < 0.5},
            )
            for n in range(200)
        ]
        found = totals(groups, assign(groups, BOTH, seed=seed))
        assert all(abs(found[part][IMAGES] - fraction * 200) < 2 for part, fraction in BOTH.items())


@settings(max_examples=40)
@given(groups=group_lists(), seed=st.integers(0, 9), fractions=FRACTIONS, data=st.data())
def test_order_of_groups_and_of_classes_does_not_matter(
    groups: list[Group], seed: int, fractions: dict[str, float], data: st.DataObject
) -> None:
    expected = dict(zip((group.key for group in groups), assign(groups, fractions, seed=seed), strict=True))
    shuffled = [
        group._replace(counts=dict(reversed(group.counts.items()))) for group in data.draw(st.permutations(groups))
    ]
    chosen = assign(shuffled, fractions, seed=seed)
    assert {group.key: part for group, part in zip(shuffled, chosen, strict=True)} == expected


@settings(max_examples=40)
@given(groups=group_lists(), data=st.data())
def test_groups_that_have_a_part_keep_it(groups: list[Group], data: st.DataObject) -> None:
    known = st.sampled_from([None, *PARTS])
    placed = [group._replace(split=data.draw(known)) for group in groups]
    chosen = assign(placed, BOTH, seed=1)
    assert all(group.split in (None, part) for group, part in zip(placed, chosen, strict=True))


def test_new_groups_fill_what_old_ones_left() -> None:
    old = [single(number, "ant")._replace(split="train") for number in range(60)]
    new = [single(number, "ant") for number in range(60, 100)]
    found = totals([*old, *new], assign([*old, *new], BOTH, seed=1))
    assert (found["val"][IMAGES], found["test"][IMAGES]) == (15, 10)


def test_seed_chooses() -> None:
    groups = [single(number, CLASSES[number % 4]) for number in range(60)]
    assert len({tuple(assign(groups, BOTH, seed=seed)) for seed in range(5)}) == 5
