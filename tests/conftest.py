"""What the rooms of the tests share: a seeded generator, and the numbers of the peers in tests/golden."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def generator() -> torch.Generator:
    """Randomness that is the same in every run."""
    return torch.Generator().manual_seed(1234)


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
