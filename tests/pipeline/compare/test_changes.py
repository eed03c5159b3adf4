"""Laws of what changed between two runs, and of splits that cannot be compared."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.compare.changes import describe_changes, differing
from pipeline.compare.runs import Origin
from pipeline.reports.evaluated import EvaluatedSplit, check_split, digest_split
from tests.judged_world import random_truth


def evaluated(truth: dict[str, Any]) -> EvaluatedSplit:
    return EvaluatedSplit(copy.deepcopy(truth), [], None)


def test_same_split_is_taken_wherever_its_pictures_lie() -> None:
    one, other = evaluated(random_truth(1)), evaluated(random_truth(1))
    other.truth["info"]["root"] = "https://elsewhere/pictures"
    assert check_split(one, other) is None
    assert digest_split(one.truth) == digest_split(other.truth)


def test_other_images_are_refused() -> None:
    one, other = evaluated(random_truth(1)), evaluated(random_truth(1, num_images=37))
    with pytest.raises(
        ValueError, match=r"3 images are only in A's split and 0 only in B's: both runs must be evaluated"
    ):
        check_split(one, other)


def test_other_pictures_under_the_same_ids_are_refused() -> None:
    one, other = evaluated(random_truth(1)), evaluated(random_truth(2))  # the ids of all made-up splits are the same
    with pytest.raises(ValueError, match="image id 5 and 39 more are different images in A and in B"):
        check_split(one, other)


def test_other_classes_are_refused() -> None:
    one, other = evaluated(random_truth(1)), evaluated(random_truth(1))
    other.truth["categories"][0]["name"] = "stone"
    with pytest.raises(ValueError, match="the classes are brick, leaf, pond in A and stone, leaf, pond in B"):
        check_split(one, other)


def test_other_truths_of_the_same_pictures_are_told() -> None:
    one, other = evaluated(random_truth(1)), evaluated(random_truth(1))
    other.truth["annotations"].pop()
    assert (
        check_split(one, other)
        == "the ground truth of A's split differs from that of B's; both runs are evaluated here on B's"
    )
    assert digest_split(one.truth) != digest_split(other.truth)


def test_only_what_differs_is_named() -> None:
    assert differing({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == {"b": ("2", "3"), "c": (None, "4")}


def test_what_is_not_known_is_said() -> None:
    changes = describe_changes(Origin({"seed": "1"}), Origin({"seed": "1"}, environment={"host": "here"}))
    assert changes["params"] == {}
    assert changes["data"].startswith("unknown")
    assert changes["code"].startswith("unknown")
    assert changes["environment"] is None


def test_data_is_compared_by_its_digest() -> None:
    one, other = Origin({}, train_data="a" * 64), Origin({}, train_data="b" * 64)
    assert describe_changes(one, one)["data"] == f"the same train split ({'a' * 12})"
    assert describe_changes(one, other)["data"] == f"train split {'a' * 12} -> {'b' * 12}"


@pytest.fixture
def commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A repository of three commits: the second changes a room, the third only a page."""
    monkeypatch.chdir(tmp_path)

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(["git", *who, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "retinanet").mkdir()
    found = []
    for name, text in (("retinanet/losses.py", "one\n"), ("retinanet/losses.py", "two\n"), ("page.md", "three\n")):
        (tmp_path / name).write_text(text)
        git("add", ".")
        git("commit", "-q", "-m", name)
        found.append(git("rev-parse", "HEAD"))
    return found


def test_code_is_compared_by_git(commits: list[str]) -> None:
    first, second, third = (Origin({}, commit=commit) for commit in commits)
    assert describe_changes(first, first)["code"] == f"the same commit ({commits[0][:8]})"
    assert "retinanet/losses.py | 2 +-" in describe_changes(first, second)["code"]
    assert "with no difference in retinanet" in describe_changes(second, third)["code"]


def test_commit_that_is_not_here_and_changes_that_none_holds_are_told(commits: list[str]) -> None:
    here, away = Origin({}, commit=commits[0], changes="M pipeline/fit.py"), Origin({}, commit="f" * 40)
    code = describe_changes(here, away)["code"]
    assert "this repository does not have ffffffff (git fetch)" in code
    assert code.endswith("A had uncommitted changes:\nM pipeline/fit.py")
