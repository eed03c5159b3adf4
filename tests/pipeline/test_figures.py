"""Laws of docs/detector.md: its pictures are made, small, and show what the text says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from docs import figures
from retinanet.anchors.grid import build_grid
from retinanet.losses.sigmoid import sigmoid_focal_loss

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/detector.md").read_text()


class GridAlone:
    """What draw_rules reads of a detector."""

    grid = build_grid(base_scale=3.0)


def test_rules_give_the_boxes_the_anchors_that_the_text_tells() -> None:
    drawn: Figure = figures.draw_rules(GridAlone())  # type: ignore[arg-type]
    told = [dict(re.findall(r"([ABC]) (\d+)", panel.get_xlabel())) for panel in drawn.axes]
    none, anchor, truth = ({name: int(count) > 0 for name, count in panel.items()} for panel in told)
    assert none == {"A": True, "B": False, "C": False}
    assert anchor == {"A": True, "B": False, "C": True}
    assert truth == {"A": True, "B": True, "C": True}


def test_parts_of_the_loss_add_up() -> None:
    """Ignored anchors count in no part."""
    logits = torch.tensor([[3.0], [-5.0], [1.0], [0.0]])
    targets, counted = torch.tensor([[1.0], [0.0], [0.0], [0.0]]), torch.tensor([True, True, True, False])
    empty = torch.zeros(0)
    scene = figures.Scene(empty.numpy(), empty, empty, logits, targets, counted)
    parts = figures.parts_of([scene], alpha=0.25, gamma=2.0)
    each = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2.0).flatten().tolist()
    assert list(parts.values()) == pytest.approx([each[0], each[2], each[1]])


def test_every_picture_is_in_the_text_and_small() -> None:
    pictures = sorted((ROOT / "docs/detector").glob("*.png"))
    assert [path.name for path in pictures] == sorted(re.findall(r"\]\(detector/(\w+\.png)\)", TEXT))
    assert all(path.stat().st_size < 150_000 for path in pictures)


@pytest.mark.slow
@pytest.mark.usefixtures("untrained")
def test_one_command_makes_all_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(figures, "FOLDER", tmp_path / "pictures")
    monkeypatch.setattr("sys.argv", ["figures"])
    figures.main()
    made = sorted(path.name for path in (tmp_path / "pictures").glob("*.png"))
    assert made == sorted(path.name for path in (ROOT / "docs/detector").glob("*.png"))
