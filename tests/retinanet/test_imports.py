"""What importing the detector brings along, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Each costs more than the detector itself, and none is needed to train or to detect.
BANNED = {"matplotlib", "mlflow", "pandas", "pycocotools", "pydantic", "pyarrow", "ray", "scipy", "yaml"}
CHILD = """
import sys, retinanet.training.engine, retinanet.inference.detector
print(*{name.partition('.')[0] for name in sys.modules})
"""


@pytest.mark.slow
def test_the_detector_brings_no_library_that_it_can_do_without() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    assert BANNED & set(done.stdout.split()) == set()
