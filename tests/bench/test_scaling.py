"""Laws of the bench of scaling: what a step is, what Ray's share is, and that both launchers train the same."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from bench.scaling import (
    LAUNCHERS,
    Timing,
    demand_equal_losses,
    epoch_end,
    measure,
    split_epochs,
    summarise,
    verdict,
    warm_steps,
)

REPOSITORY = Path(__file__).resolve().parents[2]
# Two epochs of three steps of 2 s, the first slower; 5 s lie between them.
STAMPS = [10.0, 14.0, 18.0, 23.0, 25.0, 27.0]


def timing(workers: int, launcher: str, step_s: float) -> Timing:
    return Timing(
        workers=workers,
        launcher=launcher,
        start_up_s=5.0,
        epoch_end_s=0.5,
        steps_s=[step_s, step_s],
        steps_cpu_s=[step_s, step_s],
        losses=[{"loss": 0.1}],
    )


def test_warm_steps_leave_out_the_first_epoch_and_what_lies_between_epochs() -> None:
    assert warm_steps(split_epochs(STAMPS, steps=3)) == [2, 2]


def test_end_of_an_epoch_is_the_gap_without_its_step() -> None:
    assert epoch_end(split_epochs(STAMPS, steps=3)) == 5 - 2


def test_efficiency_is_against_the_cores_that_are_there() -> None:
    # On 2 cores: 8 images take 4 s, 2 s and 2.5 s, so 4 workers on 2 cores reach 3.2 of the 4 images/s of two.
    timings = [timing(n, name, step) for n, step in ((1, 4.0), (2, 2.0), (4, 2.5)) for name in LAUNCHERS]
    rows = summarise(timings, batch=8, cores=2)
    assert [row["images_per_s"] for row in rows] == pytest.approx([2, 4, 3.2])
    assert [row["efficiency"] for row in rows] == pytest.approx([1, 1, 0.8])


def test_share_of_ray_is_the_median_of_its_rounds() -> None:
    # Each against torchrun's of the same round, whatever the machine did in between: 2 %, 0 % and 1 %.
    pairs = ((1.02, 1.0), (2.0, 2.0), (3.03, 3.0))
    timings = [timing(2, name, step) for pair in pairs for name, step in zip(LAUNCHERS, pair, strict=True)]
    (row,) = summarise(timings, batch=8, cores=2)
    assert (row["least_share"], row["share"], row["most_share"]) == pytest.approx((0, 0.01, 0.02))


@pytest.mark.parametrize(
    ("shares", "word"),
    [
        ((0.01, -0.01), "within the bar of 2%"),
        ((0.03, 0.05), "ABOVE the bar of 2%"),
        ((0.01, 0.05), "2 rounds do not decide"),
        ((0.05,), "1 rounds do not decide"),
    ],
)
def test_bar_is_judged_where_all_rounds_agree(shares: tuple[float, ...], word: str) -> None:
    timings = [timing(2, name, step) for share in shares for name, step in (("ray", 1 + share), ("torchrun", 1.0))]
    assert word in verdict(summarise(timings, batch=8, cores=2))


def test_a_digit_that_differs_stops_the_bench() -> None:
    ours = timing(2, "ray", 1.0)
    theirs = replace(ours, launcher="torchrun", losses=[{"loss": 0.1 + 1e-16 + 2e-17}])
    demand_equal_losses([ours, replace(theirs, losses=[{"loss": 0.1}])])
    with pytest.raises(AssertionError, match="torchrun, 2 workers"):
        demand_equal_losses([ours, theirs])


@pytest.mark.slow
def test_ray_and_torchrun_train_to_the_same_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # a socket's path has at most 107 bytes
    options = argparse.Namespace(
        images=12, batch=4, epochs=2, rounds=1, workers=[2], conf=REPOSITORY / "conf/local.yaml"
    )
    ray, torchrun = measure(tmp_path, options)
    assert (ray.launcher, torchrun.launcher) == LAUNCHERS
    assert [row["step"] for row in ray.losses] == [3, 6] and "AP" in ray.losses[-1]
    assert ray.losses == torchrun.losses
    demand_equal_losses([ray, torchrun])
