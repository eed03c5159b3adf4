"""The laws of bench.gpu_checks: on a GPU where there is one, always on the CPU, which shows that the checks run."""

from __future__ import annotations

import pytest
import torch

from bench import gpu_checks
from bench.gpu_checks import batches, build_state, find_checks, train

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CHECKS = find_checks()
# bf16 without instructions for it takes seconds a step; processes start for seconds.
SLOW = {"half_precision", "pictures", "processes"}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in CHECKS]
)
def test_law_of_a_device(name: str, device: str) -> None:
    with gpu_checks.convolving_float32():
        CHECKS[name](torch.device(device))


def test_wrong_device_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # A device whose training differs by a thousandth more than is allowed.
    curves = iter([1.0, 1.0021])
    monkeypatch.setattr(gpu_checks, "train", lambda state, given: [next(curves)])
    monkeypatch.setattr(gpu_checks, "find_checks", lambda: {"curve": gpu_checks.check_curve})
    assert not gpu_checks.run_checks(torch.device("cpu"))
    assert "curve            FAILS: AssertionError: relative difference 2.10e-03" in capsys.readouterr().out


def test_training_of_the_checks_learns() -> None:
    losses = train(build_state(torch.device("cpu")), batches(1) * 5)
    assert losses[-1] < 0.99 * losses[0]
