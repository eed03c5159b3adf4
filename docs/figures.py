"""Make the pictures of docs/detector.md from the project's data and model: python -m docs.figures, or make figures.

It reads data/prepared/train.json, its pictures, params.yaml and models/model.pt, and writes docs/detector/*.png.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from pipeline.pages.charts import BLUE, GREY, INK, RED, style
from pipeline.storage.outs import read_json
from retinanet.anchors.matcher import match_anchors
from retinanet.data.dataset import Batch, EvaluationBatches
from retinanet.data.splits import Split
from retinanet.inference.detector import Detector, build_network
from retinanet.losses.sigmoid import sigmoid_focal_loss
from retinanet.network.predictions import Predictions

FOLDER = Path(__file__).parent / "detector"
TRAIN = Path("data/prepared/train.json")
MODEL = Path("models/model.pt")
GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
RULES = ("none", "anchor", "truth")
PALE = ("#56b4e9", "#ffb000", "#7ee787")  # seen on grey
SHOWN = 12  # pictures over which losses are summed
HARD = 0.1  # background with a higher probability is hard


class Scene(NamedTuple):
    """A picture as the network sees it, with its anchors.

    Attributes:
        pixels: [H, W, 3] uint8.
        boxes, labels: [M, 4] px and [M].
        logits: [A, K] of a network; empty without one.
        targets: [A, K] 1 for the class of a foreground anchor.
        counted: [A] not ignored.
    """

    pixels: np.ndarray[Any, Any]
    boxes: Tensor
    labels: Tensor
    logits: Tensor
    targets: Tensor
    counted: Tensor


def look(detector: Detector, split: Split, indices: Sequence[int]) -> list[Scene]:
    """The pictures of the split as the network of a detector sees and scores them."""
    scenes: list[Scene] = []

    def observe(batch: Batch, predictions: Predictions) -> None:
        classes = len(detector.class_names)
        maps = [logits[0].permute(1, 2, 0).reshape(-1, classes) for logits in predictions.class_logits]
        logits = torch.cat(maps).float()
        ((boxes, labels),) = batch.truths()
        found = match_anchors([boxes], detector.grid, batch.padded_size)
        targets, counted = torch.zeros_like(logits), torch.ones(len(logits), dtype=torch.bool)
        targets[found.foreground, labels[found.truth]] = 1
        counted[found.ignored] = False
        height, width = batch.image_sizes[0].tolist()
        pixels = batch.images[0, :, :height, :width].permute(1, 2, 0).numpy()
        scenes.append(Scene(pixels, boxes, labels, logits, targets, counted))

    content = read_json(TRAIN)
    chosen = [content["images"][index] for index in indices]
    ids = {image["id"] for image in chosen}
    few = {**content, "images": chosen, "annotations": [a for a in content["annotations"] if a["image_id"] in ids]}
    batches = EvaluationBatches(Split(few, root=split.root), detector.transforms, batch_size=1)
    loader = (batches[position] for position in range(len(batches)))
    for _ in detector.predict(loader, observe=observe):
        pass
    return scenes


def draw_anchors(scene: Scene, detector: Detector) -> Figure:
    """The nine anchors of the middle cell of each level, over the cells of that level."""
    grid, size = detector.grid, scene.pixels.shape[:2]
    height, width = size
    levels = [level for level, cells in enumerate(grid.map_sizes((height, width))) if min(cells) >= 2]
    figure = Figure(figsize=(2.6 * len(levels), 3.0), dpi=90, layout="constrained")
    anchors = grid.anchors((height, width)).split(grid.anchors_per_level((height, width)))
    for panel, level in enumerate(levels):
        axes = figure.add_subplot(1, len(levels), panel + 1)
        _show(axes, scene.pixels)
        rows, columns = grid.map_sizes((height, width))[level]
        own = anchors[level].reshape(rows, columns, -1, 4)
        centres = (own[:, :, 0, :2] + own[:, :, 0, 2:]) / 2
        axes.plot(centres[..., 0].flatten(), centres[..., 1].flatten(), ".", color="white", markersize=2)
        for number, box in enumerate(own[rows // 2, columns // 2].tolist()):
            _draw(axes, box, color=PALE[number // 3], linewidth=1.6)
        axes.set_xlim(-width * 0.35, width * 1.35)
        axes.set_ylim(height * 1.35, -height * 0.35)
        axes.set_title(f"P{level + 3}: {rows} x {columns} cells", fontsize=10)
    return figure


def draw_rules(detector: Detector) -> Figure:
    """The anchors of each box under each rule: A fits anchors, B lies flat in A, C is smaller than every anchor."""
    smallest = min(map(min, detector.grid.sizes))
    boxes = torch.tensor([[30.0, 44, 70, 66], [30, 51, 70, 58], [96, 88, 96 + smallest / 2, 88 + smallest / 2]])
    figure = Figure(figsize=(9, 3.3), dpi=90, layout="constrained")
    size = (128, 128)
    anchors = detector.grid.anchors(size)
    for panel, rule in enumerate(RULES):
        axes = figure.add_subplot(1, len(RULES), panel + 1)
        _show(axes, np.full((*size, 3), 110, dtype=np.uint8))
        matches = match_anchors([boxes], detector.grid, size, low_quality=rule)
        counts = torch.bincount(matches.truth, minlength=len(boxes)).tolist()
        for index, truth in zip(matches.foreground.tolist(), matches.truth.tolist(), strict=True):
            _draw(axes, anchors[index].tolist(), color=PALE[truth], linewidth=1.1)
        for truth, box in enumerate(boxes.tolist()):
            _draw(axes, box, color="black", linewidth=3.6)
            _draw(axes, box, color=PALE[truth], linewidth=2.2, linestyle=(0, (4, 2)))
            axes.annotate("ABC"[truth], (box[2] + 2, box[1] + 4), color=PALE[truth], fontsize=11, weight="bold")
        axes.set_title(f"low_quality: {rule}", fontsize=10)
        axes.set_xlabel(f"anchors: {', '.join(f'{name} {count}' for name, count in zip('ABC', counts, strict=True))}")
    return figure


def draw_focal() -> Figure:
    """The loss of a foreground anchor over its probability, as figure 1 of the paper, and of a background one."""
    figure = Figure(figsize=(9, 3.6), dpi=90, layout="constrained")
    probabilities = torch.linspace(0.002, 0.998, 400, dtype=torch.float64)
    logits = torch.logit(probabilities)
    for panel, (target, title) in enumerate(((1.0, "an anchor of the class"), (0.0, "a background anchor"))):
        axes = figure.add_subplot(1, 2, panel + 1)
        for number, gamma in enumerate(GAMMAS):
            targets = torch.full_like(logits, target)
            loss = sigmoid_focal_loss(logits, targets, alpha=None, gamma=gamma)
            label = "cross entropy" if gamma == 0 else f"gamma {gamma:g}"
            axes.plot(probabilities, loss, **style(number), label=label)
        axes.set(ylim=(0, 5), xlim=(0, 1), xlabel="p, probability of the class", title=title)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("loss, without alpha")
    figure.axes[0].legend()
    return figure


def parts_of(scenes: Sequence[Scene], *, alpha: float | None, gamma: float) -> dict[str, float]:
    """The loss of scenes by part: foreground, hard background, easy background."""
    sums = dict.fromkeys(("foreground", "hard background", "easy background"), 0.0)
    for scene in scenes:
        loss = sigmoid_focal_loss(scene.logits, scene.targets, alpha=alpha, gamma=gamma)[scene.counted]
        targets, hard = scene.targets[scene.counted] == 1, scene.logits[scene.counted].sigmoid() > HARD
        for name, rows in zip(sums, (targets, ~targets & hard, ~targets & ~hard), strict=True):
            sums[name] += float(loss[rows].sum())
    return sums


def draw_origin(start: Sequence[Scene], end: Sequence[Scene]) -> Figure:
    """Where the class loss of one picture comes from, at the start and at the end of training."""
    figure = Figure(figsize=(9, 3.4), dpi=90, layout="constrained")
    parts = figure.add_gridspec(1, 3, width_ratios=[1, 1, 1.7])
    for panel, (scene, title) in enumerate(((start[0], "start"), (end[0], "end"))):
        axes = figure.add_subplot(parts[panel])
        loss = sigmoid_focal_loss(scene.logits, scene.targets, alpha=0.25, gamma=2.0).sum(dim=1)
        _show(axes, scene.pixels, dim=0.35)
        height, width = scene.pixels.shape[:2]
        heat = _spread(loss * scene.counted, scene.pixels.shape[:2])
        axes.imshow(heat / max(float(heat.max()), 1e-12), cmap="inferno", alpha=0.75, extent=(0, width, height, 0))
        for box in scene.boxes.tolist():
            _draw(axes, box, color="white", linewidth=1.2, linestyle="--")
        axes.set_title(f"{title}: focal loss by place", fontsize=10)
    axes = figure.add_subplot(parts[2])
    names = ["start, cross entropy", "start, focal", "end, cross entropy", "end, focal"]
    bars = [
        parts_of(scenes, alpha=alpha, gamma=gamma)
        for scenes in (start[:1], end[:1])
        for alpha, gamma in ((None, 0.0), (0.25, 2.0))
    ]
    for name, bar in zip(names, bars, strict=True):
        print(f"{name}: {', '.join(f'{part} {loss / sum(bar.values()):.2f}' for part, loss in bar.items())}")
    left = np.zeros(len(bars))
    for colour, part in zip((BLUE, RED, GREY), bars[0], strict=True):
        shares = np.array([bar[part] / sum(bar.values()) for bar in bars])
        axes.barh(range(len(bars)), shares, left=left, color=colour, label=part)
        left += shares
    axes.set_yticks(range(len(bars)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of the class loss")
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.2), ncols=3, fontsize=8, frameon=False)
    return figure


def draw_balance(scenes: Sequence[Scene]) -> Figure:
    """How gamma moves the loss of background to its hard anchors, and how alpha moves the balance with foreground."""
    figure = Figure(figsize=(9, 3.6), dpi=90, layout="constrained")
    axes = figure.add_subplot(1, 2, 1)
    for number, gamma in enumerate(GAMMAS[:-1]):
        losses = [
            sigmoid_focal_loss(scene.logits, scene.targets, alpha=None, gamma=gamma)[
                scene.counted[:, None] & (scene.targets == 0)
            ]
            for scene in scenes
        ]
        falling = torch.cat(losses).sort(descending=True).values.double()
        share = falling.cumsum(0) / falling.sum()
        print(f"gamma {gamma:g}: the hardest 1 % hold {float(share[len(share) // 100]):.2f} of background's loss")
        axes.plot(np.linspace(0, 100, len(share)), share, **style(number), label=f"gamma {gamma:g}")
    axes.set(xscale="log", xlim=(0.01, 100), ylim=(0, 1.02), xlabel="hardest % of the background")
    axes.set_ylabel("share of background's loss")
    axes.legend()
    alphas = np.linspace(0.05, 0.95, 19)
    axes_2 = figure.add_subplot(1, 2, 2)
    for number, gamma in enumerate(GAMMAS[:-1]):
        ratios = []
        for alpha in alphas:
            parts = parts_of(scenes, alpha=float(alpha), gamma=gamma)
            ratios.append(parts["foreground"] / sum(parts.values()))
        print(f"gamma {gamma:g}, alpha 0.25: {float(np.interp(0.25, alphas, ratios)):.2f} of the loss from foreground")
        axes_2.plot(alphas, ratios, **style(number), label=f"gamma {gamma:g}")
    axes_2.axvline(0.25, color=INK, linewidth=1, linestyle=":")
    axes_2.annotate(" the paper's", (0.25, 0.02), fontsize=9)
    axes_2.set(xlim=(0, 1), ylim=(0, 1), xlabel="alpha", ylabel="share of the loss from foreground")
    for panel in (axes, axes_2):
        panel.grid(alpha=0.3)
    return figure


def _spread(values: Tensor, size: Sequence[int]) -> np.ndarray[Any, Any]:
    """Sum the values of all anchors of P3 at their cells; the other levels are coarser."""
    rows, columns = (-(-side // 8) for side in size)
    per_cell = len(values) and 9
    own = values[: rows * columns * per_cell].reshape(rows, columns, per_cell).sum(dim=2)
    return own.numpy()


def _show(axes: Any, pixels: np.ndarray[Any, Any], *, dim: float = 0.8) -> None:
    """A picture in grey, so that lines stand out."""
    grey = pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
    height, width = pixels.shape[:2]
    axes.imshow((dim * grey).astype(np.uint8), extent=(0, width, height, 0), vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("#1c1c1c")


def _draw(axes: Any, box: Sequence[float], **line: Any) -> None:
    x1, y1, x2, y2 = box
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **line))


def save(figure: Figure, name: str) -> None:
    """Write a figure in few colours: docs/detector/<name>.png."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    path = FOLDER / f"{name}.png"
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(96).save(path, optimize=True)
    print(f"{path} ({path.stat().st_size // 1000} kB)", flush=True)


def main() -> None:
    """Make all pictures."""
    argparse.ArgumentParser(prog="python -m docs.figures", description=__doc__).parse_args()
    for path in (TRAIN, MODEL):
        if not path.is_file():
            raise SystemExit(f"figures: {path} does not exist; run `make repro` first")
    trained = Detector.load(MODEL)
    torch.manual_seed(0)
    untrained = Detector(build_network(trained.description).eval(), trained.description)
    split = Split(read_json(TRAIN))
    indices = [index for index in range(len(split.records)) if len(split.records[index].boxes) >= 3][:SHOWN]
    end = look(trained, split, indices)
    print(f"model of epoch {trained.description['run'].get('epoch')}")
    FOLDER.mkdir(exist_ok=True)
    save(draw_anchors(end[0], trained), "anchors")
    save(draw_rules(trained), "rules")
    save(draw_focal(), "focal")
    save(draw_origin(look(untrained, split, indices[:1]), end), "origin")
    save(draw_balance(end), "balance")


if __name__ == "__main__":
    main()
