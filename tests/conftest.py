"""What the rooms of the tests share: a seeded generator, a small world, the numbers of the peers in tests/golden."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from torch import Tensor

from tests.small_world import SmallWorld, write_small_world

GOLDEN = Path(__file__).parent / "golden"

settings.register_profile("whatever the load of the machine", deadline=None)
settings.load_profile("whatever the load of the machine")


@pytest.fixture
def generator() -> torch.Generator:
    """Randomness that is the same in every run."""
    return torch.Generator().manual_seed(1234)


@pytest.fixture
def small_world(tmp_path: Path) -> SmallWorld:
    """Nine pictures as a prepared data set, in the test's own folder."""
    return write_small_world(tmp_path / "small_world")


@cache
def load_golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as content:
        return {key: torch.from_numpy(np.asarray(content[key])) for key in content.files}


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Tensor]]:
    """A function from the name of a file in tests/golden to its arrays, as tensors: do not write into them."""
    return load_golden


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    """Where tests/golden lies."""
    return GOLDEN
